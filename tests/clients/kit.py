"""Both forms of the Python client behind one interface, and connections that break."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio.from_thread
import httpx

from frontrunner import AsyncClient, Client

PROMPT: Any = {"prompt": "a red apple", "n_candidates": 3, "steps": 4, "seed": 7}


class _Blocking:
    """An AsyncClient in an event loop of another thread, used as if it were a Client."""

    def __init__(self, client: AsyncClient, portal: anyio.from_thread.BlockingPortal) -> None:
        self._client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            made = getattr(self._client, name)(*arguments, **named)
            if inspect.isasyncgen(made):
                return self._events(made)
            return self._portal.call(lambda: made)

        return call

    def _events(self, made: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._portal.call(made.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._portal.call(made.aclose)


@contextmanager
def connected(kind: str, url: str, transport: httpx.BaseTransport | None = None, **options: Any) -> Iterator[Client]:
    """A client of either kind; `transport` carries what it sends."""
    if kind == "sync":
        with httpx.Client(transport=transport) as threads, Client(url, http=threads, **options) as client:
            yield client
        return
    with anyio.from_thread.start_blocking_portal() as portal:
        http = httpx.AsyncClient(transport=None if transport is None else _Async(transport))
        try:
            yield cast(Client, _Blocking(AsyncClient(url, http=http, **options), portal))
        finally:
            portal.call(http.aclose)


class _Async(httpx.AsyncBaseTransport):
    """A transport for threads, where asynchronous ones are needed."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        response = await anyio.to_thread.run_sync(self._transport.handle_request, sent)
        return httpx.Response(response.status_code, headers=response.headers, stream=_AsyncStream(response.stream))

    async def aclose(self) -> None:
        self._transport.close()


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> Any:
        chunks = iter(self._stream)
        while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._stream.close)


class Breaking(httpx.BaseTransport):
    """Notes every request. The first `cuts` streams break after so many events, the first `lost` answers never come."""

    def __init__(self, *, cuts: int = 0, after: int = 2, lost: int = 0) -> None:
        self.requests: list[httpx.Request] = []
        self._cuts, self._after, self._lost = cuts, after, lost
        self._transport = httpx.HTTPTransport()

    def close(self) -> None:
        self._transport.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self._transport.handle_request(request)
        if self._lost:
            self._lost -= 1
            response.read()
            response.close()
            raise httpx.ReadError("the connection was reset", request=request)
        if self._cuts and response.headers.get("content-type", "").startswith("text/event-stream"):
            self._cuts -= 1
            stream = _Cut(response.stream, self._after)
            return httpx.Response(response.status_code, headers=response.headers, stream=stream)
        return response


class _Cut(httpx.SyncByteStream):
    def __init__(self, stream: Any, events: int) -> None:
        self._stream, self._events = stream, events

    def __iter__(self) -> Iterator[bytes]:
        sent = b""
        for chunk in self._stream:
            sent += chunk
            if sent.count(b"\n\n") > self._events:
                *whole, _ = sent.split(b"\n\n")[: self._events + 1]
                yield b"\n\n".join(whole) + b"\n\ndata: half an ev"
                raise httpx.RemoteProtocolError("the peer closed the connection")
        yield sent

    def close(self) -> None:
        self._stream.close()
