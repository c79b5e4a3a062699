"""Responses as long as a generation: server-sent events, and JSON kept alive.

Both send something at least every `HEARTBEAT_S`. Events come from the log, never from the engine.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import nullcontext
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.problems import error_member, field_errors, from_error, instance, named_detail, status_of
from app.errors import FrontrunnerError, error_context
from app.service import generation_path

SSE_MEDIA_TYPE = "text/event-stream"

KEEP_ALIVE = "keep-alive"
"""Preference for a JSON response that starts before the generation ends."""

HEARTBEAT_S = 15.0
"""Maximum silence in seconds: proxies close idle connections after 30 to 60 s."""

MAX_BUFFERED_EVENTS = 64
"""Events buffered for a slow client before reading of the log pauses."""

RETRY_MS = 2000
"""Milliseconds after which a browser reconnects to a broken stream."""


class _LastingResponse(StreamingResponse):
    """A stream that proxies do not buffer.

    `on_disconnect` runs when the client disconnects before the end; it must not raise.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        headers: Mapping[str, str] | None,
        on_disconnect: Callable[[], Awaitable[object]] | None,
    ) -> None:
        defaults = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(self._mark_end(chunks), headers={**defaults, **(headers or {})})
        self._on_disconnect = on_disconnect
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_disconnect is not None and not self._ended:
                with anyio.CancelScope(shield=True):
                    await self._on_disconnect()

    async def _mark_end(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        self._ended = True


class EventStreamResponse(_LastingResponse):
    """Stream a generation's events for at most `lifetime_s` seconds.

    Clients reconnect to continue. The id is None if the stream starts before the generation.
    """

    media_type = SSE_MEDIA_TYPE

    def __init__(
        self,
        generation_id: str | None,
        events: AsyncIterator[bytes],
        *,
        lifetime_s: float = math.inf,
        headers: Mapping[str, str] | None = None,
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        with_error = _with_error_event(generation_id, events)
        super().__init__(_with_heartbeats(with_error, lifetime_s), headers, on_disconnect)


class KeptAliveResponse(_LastingResponse):
    """Send headers at once, white space while `make` runs, then the JSON it returns.

    The status is always 200; an error of the service becomes a problem document with a status of its own.
    """

    media_type = "application/json"

    def __init__(
        self,
        scope: Scope,
        generation_id: str,
        make: Callable[[], Awaitable[str]],
        *,
        on_disconnect: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        headers = {
            "location": generation_path(generation_id),
            "preference-applied": KEEP_ALIVE,
            "x-frontrunner-id": generation_id,
            "vary": "accept, prefer",
        }
        super().__init__(_with_white_space(_or_problem(scope, generation_id, make)), headers, on_disconnect)


async def _or_problem(scope: Scope, generation_id: str, make: Callable[[], Awaitable[str]]) -> bytes:
    try:
        with error_context(generation_id):
            return (await make()).encode()
    except FrontrunnerError as error:
        return bytes(from_error(error, instance(scope)).body)


async def _with_white_space(document: Coroutine[Any, Any, bytes]) -> AsyncIterator[bytes]:
    making = asyncio.create_task(document)
    try:
        while not making.done():
            yield b"\n"
            await asyncio.wait({making}, timeout=HEARTBEAT_S)
        yield making.result()
    finally:
        making.cancel()


def encode_event(kind: str, data: BaseModel | Mapping[str, Any], seq: int | None = None) -> bytes:
    """One event as bytes; the first of a log also sets the reconnection delay."""
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
    return format_sse_event(
        event=kind,
        data_str=text,
        id=str(seq) if seq is not None else None,
        retry=RETRY_MS if seq == 1 else None,
    )


def encode_error_event(error: FrontrunnerError) -> bytes:
    """The event that ends a failed stream, in the form OpenAI clients raise from.

    `location` is the URL of the generation, which may still be running.
    """
    data: dict[str, Any] = {
        "error": error_member(status_of(error), error.code, named_detail(error), field_errors(error))
    }
    if error.generation_id is not None:
        data["location"] = generation_path(error.generation_id)
    return encode_event("error", data)


async def _with_error_event(generation_id: str | None, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events; an error of the service becomes the last one."""
    try:
        with error_context(generation_id) if generation_id is not None else nullcontext():
            async for chunk in events:
                yield chunk
    except FrontrunnerError as error:
        yield encode_error_event(error)


async def _with_heartbeats(events: AsyncIterator[bytes], lifetime_s: float) -> AsyncIterator[bytes]:
    """Events within `lifetime_s`, joined when several are ready, and heartbeats."""
    loop, buffer = asyncio.get_running_loop(), asyncio.Queue[bytes | None](MAX_BUFFERED_EVENTS)
    until, pump = loop.time() + lifetime_s, asyncio.create_task(_pump(events, buffer))
    try:
        while (remaining_s := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(HEARTBEAT_S, remaining_s)):
                    chunk = await buffer.get()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            chunks = [chunk, *(buffer.get_nowait() for _ in range(buffer.qsize()))]
            if data := b"".join(chunk for chunk in chunks if chunk is not None):
                yield data
            if chunks[-1] is None:
                await pump
                return
    finally:
        pump.cancel()


async def _pump(events: AsyncIterator[bytes], buffer: asyncio.Queue[bytes | None]) -> None:
    """Put the events, then None, into a bounded queue, which applies backpressure."""
    try:
        async for chunk in events:
            await buffer.put(chunk)
    except Exception:
        await buffer.put(None)
        raise
    await buffer.put(None)
