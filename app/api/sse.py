"""Server-sent events: a generation's log as bytes, with heartbeats and resumption. Reads the log, never the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.problems import error_member, field_errors
from app.errors import FrontrunnerError

MEDIA_TYPE = "text/event-stream"

HEARTBEAT_S = 15.0
"""Longest silence: proxies close connections that look dead after 30 to 60 s."""

RETRY_MS = 2000
"""How soon a browser comes back when the stream breaks."""


class EventStream(StreamingResponse):
    """An answer that is a stream of events. `on_close` runs when it ends, however it ends; it must not raise."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        on_close: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        plain = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_beating(_closed_by_errors(events)), headers={**plain, **(headers or {})})
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_close is not None:
                with anyio.CancelScope(shield=True):
                    await self._on_close()


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
    """The event that ends a stream which cannot go on, in the form OpenAI clients raise from."""
    member = error_member(error.status, error.code, error.detail, field_errors(error))
    return event("error", {"error": member})


async def _closed_by_errors(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events, and what went wrong as the last of them."""
    try:
        async for chunk in events:
            yield chunk
    except FrontrunnerError as error:
        yield error_event(error)


async def _beating(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events, with a comment in every silence of `HEARTBEAT_S`."""
    coming = asyncio.ensure_future(_next(events))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_S)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            chunk = coming.result()
            if chunk is None:
                return
            yield chunk
            coming = asyncio.ensure_future(_next(events))
    finally:
        coming.cancel()


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)
