"""Server-sent events: a generation's log as bytes, with heartbeats and resumption. Reads the log, never the engine."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.problems import error_member, field_errors, status_of, where
from app.errors import FrontrunnerError, about

MEDIA_TYPE = "text/event-stream"

HEARTBEAT_S = 15.0
"""Longest silence: proxies close connections that look dead after 30 to 60 s."""

HELD = 64
"""Events that wait for a slow client before its reading of the log is held up."""

RETRY_MS = 2000
"""How soon a browser comes back when the stream breaks."""


class EventStream(StreamingResponse):
    """An answer that is a stream of a generation's events, for at most `life_s`: clients come back and go on.

    `on_gone` runs when the client has left before the end; it must not raise.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        generation_id: str,
        events: AsyncIterator[bytes],
        *,
        life_s: float = math.inf,
        headers: Mapping[str, str] | None = None,
        on_gone: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        plain = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        closed = _closed_by_errors(generation_id, events)
        super().__init__(self._ending(_beating(closed, life_s)), headers={**plain, **(headers or {})})
        self._on_gone = on_gone
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_gone is not None and not self._ended:
                with anyio.CancelScope(shield=True):
                    await self._on_gone()

    async def _ending(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        self._ended = True


def event(kind: str, data: BaseModel | Mapping[str, Any], seq: int | None = None) -> bytes:
    """One event. The first one of a log also says how soon to come back."""
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
    return format_sse_event(
        event=kind,
        data_str=text,
        id=str(seq) if seq is not None else None,
        retry=RETRY_MS if seq == 1 else None,
    )


def error_event(error: FrontrunnerError) -> bytes:
    """The event that ends a stream which cannot go on, in the form OpenAI clients raise from.

    `location` is the generation's, which may well go on.
    """
    data: dict[str, Any] = {"error": error_member(status_of(error), error.code, error.detail, field_errors(error))}
    if error.generation_id is not None:
        data["location"] = where(error.generation_id)
    return event("error", data)


async def _closed_by_errors(generation_id: str, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events, and what went wrong as the last of them."""
    try:
        with about(generation_id):
            async for chunk in events:
                yield chunk
    except FrontrunnerError as error:
        yield error_event(error)


async def _beating(events: AsyncIterator[bytes], life_s: float) -> AsyncIterator[bytes]:
    """The events that come within `life_s`, those that are there at once in one chunk; comments in silences."""
    loop, coming = asyncio.get_running_loop(), asyncio.Queue[bytes | None](HELD)
    until, pump = loop.time() + life_s, asyncio.create_task(_pumped(events, coming))
    try:
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(HEARTBEAT_S, left)):
                    chunk = await coming.get()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            chunks = [chunk, *(coming.get_nowait() for _ in range(coming.qsize()))]
            if told := b"".join(chunk for chunk in chunks if chunk is not None):
                yield told
            if chunks[-1] is None:
                await pump
                return
    finally:
        pump.cancel()


async def _pumped(events: AsyncIterator[bytes], into: asyncio.Queue[bytes | None]) -> None:
    """Put the events, then None, into a queue, which holds up a reader that is ahead of its client."""
    try:
        async for chunk in events:
            await into.put(chunk)
    except Exception:
        await into.put(None)
        raise
    await into.put(None)
