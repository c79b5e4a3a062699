"""An HTTP transport to the app itself, for tools that run inside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.service import using_links

END_TIMEOUT_S = 5.0
"""Seconds that a request may take to end after its client has left."""

MAX_CHUNKS = 64
"""Chunks of a response that wait for a slow reader before the app pauses."""

BASE_URL = "http://in-process"

_FORWARDED = frozenset({b"host", b"authorization", b"x-api-key"})
"""Headers of the outer request that the inner one repeats."""


class Loopback:
    """Middleware that makes the app below it available, at `state.loopback`."""

    def __init__(self, app: ASGIApp, state: Any) -> None:
        self._app = app
        state.loopback = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._app(scope, receive, send)


def in_process_client(scope: Scope) -> httpx.AsyncClient:
    """A client of the app that serves the request `scope`, on behalf of its caller."""
    transport = InProcessTransport(scope["app"].state.loopback, scope)
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, timeout=None)


class InProcessTransport(httpx.AsyncBaseTransport):
    """Sends requests to `app` with key, host and prefix of the request `outer`.

    Responses are streamed. Closing one is a disconnect for the app.
    """

    def __init__(self, app: ASGIApp, outer: Scope) -> None:
        self._app = app
        self._outer = outer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx. The request's body is read whole."""
        body = await request.aread()
        exchange = _Exchange(self._app, self._scope(request), body)
        try:
            status, headers = await exchange.start()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(status, headers=headers, stream=exchange, request=request)

    def _scope(self, request: httpx.Request) -> Scope:
        prefix = self._outer.get("root_path", "")
        own = [(name.lower(), value) for name, value in request.headers.raw if name.lower() not in _FORWARDED]
        kept = [(name, value) for name, value in self._outer["headers"] if name in _FORWARDED]
        base = {name: value for name, value in self._outer.items() if name in _SHARED}
        path = prefix + request.url.path
        return {
            **base,
            "type": "http",
            "method": request.method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": request.url.query,
            "headers": [*own, *kept],
        }


_SHARED = frozenset({"app", "asgi", "client", "http_version", "root_path", "scheme", "server", "state"})
"""Members of the outer scope that the inner one repeats."""


class _Exchange(httpx.AsyncByteStream):
    """One request to the app, and the body of its response."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_CHUNKS)
        self._started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = asyncio.Future()
        self._running = asyncio.create_task(self._run(app, scope))

    async def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers of the response. Raises what the app raised before it."""
        return await self._started

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    async def aclose(self) -> None:
        """End the request; the app gets `END_TIMEOUT_S` for it."""
        self._left.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({self._running}, timeout=END_TIMEOUT_S)
            self._running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._running

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            with using_links(prefix=scope.get("root_path", "")):
                await app(scope, self._receive, self._send)
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            if not self._started.done():
                self._started.cancel()
            if not self._left.is_set():
                await self._chunks.put(None)

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self._started.done():
                self._started.set_result((message["status"], list(message["headers"])))
            return
        chunk = message.get("body", b"")
        if not chunk:
            return
        putting = asyncio.ensure_future(self._chunks.put(chunk))
        leaving = asyncio.ensure_future(self._left.wait())
        try:
            await asyncio.wait({putting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
            leaving.cancel()
