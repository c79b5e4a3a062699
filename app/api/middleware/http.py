"""Middleware for every request: request id, access log, metrics, body limits.

Plain ASGI. Bodies are measured, not parsed. Bodies, queries and headers are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from contextlib import suppress

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware.admission import HEALTH
from app.api.problems import REQUEST_ID_KEY, from_http, instance

GENERATIONS_PATH = "/v1/generations/"

REFUSED_BODY_DRAIN_S = 2.0
"""Seconds for which the rest of a refused body is drained.

The client can then read the error.
"""

FREE_BYTES = 65_536
"""Bytes of each body that do not count towards the total limit.

Requests without images thus pass while large ones use up the total.
"""

RETRY_S = 5
"""Seconds in `Retry-After` when the total limit is reached."""

_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

log = logging.getLogger("frontrunner.access")


class AccessLogMiddleware:
    """Assign a request id, log the response and count it.

    A valid `X-Request-Id` of the client is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_request_id = Headers(scope=scope).get("x-request-id", "")
        request_id = (
            client_request_id if _REQUEST_ID_PATTERN.fullmatch(client_request_id) else f"{random.getrandbits(128):032x}"
        )
        scope[REQUEST_ID_KEY] = request_id
        status, created_id = 500, ""

        async def send_with_request_id(message: Message) -> None:
            nonlocal status, created_id
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                created_id = headers.get("location", "").partition(GENERATIONS_PATH)[2]
            await send(message)

        start = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_request_id)
            finally:
                _log_access(scope, status, time.perf_counter() - start, created_id)


def _log_access(scope: Scope, status: int, seconds: float, created_id: str) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    scope["app"].state.services.metrics.observe_response(scope["method"], route, status, seconds)
    fields = {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 1)}
    generation = created_id or scope.get("path_params", {}).get("generation_id")
    if generation and status < 400:
        fields["generation"] = generation
    log.log(logging.DEBUG if route in HEALTH else logging.INFO, "answered", extra=fields)


class BodyLimitMiddleware:
    """Refuse bodies that are too large (413), too slow (408), or too many (503).

    413: more than `max_bytes`, declared or received. 408: not complete within `timeout_s`. 503: the bodies of all
    requests in progress would exceed `total_bytes`; the first `FREE_BYTES` of each do not count. Unlike Starlette's
    own limit, every refusal is a problem document.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, total_bytes: int, timeout_s: float) -> None:
        self._app = app
        self.max_bytes = max_bytes
        self.total_bytes = total_bytes
        self.timeout_s = timeout_s
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive, send)
        try:
            if _content_length(scope) > self.max_bytes:
                refusal = body.refusal(413, self.too_large)
                await from_http(413, refusal.detail, instance(scope), refusal.headers)(scope, receive, body.send)
            else:
                await self._app(scope, body.receive, body.send)
        finally:
            self.held -= body.counted
        await body.drop()

    @property
    def too_large(self) -> str:
        """Error text for a body over the limit."""
        return f"the body exceeds the limit of {self.max_bytes} bytes: send a smaller one"


class _Body:
    """The body of one request; the rest of a refused body is drained."""

    def __init__(self, limits: BodyLimitMiddleware, receive: Receive, send: Send) -> None:
        self.counted = 0
        self._limits = limits
        self._receive = receive
        self._send = send
        self._deadline = asyncio.get_running_loop().time() + limits.timeout_s
        self._read = 0
        self._reading = True
        self._refused = False

    def refusal(self, status: int, detail: str) -> HTTPException:
        """Mark the body as refused and return the error to raise."""
        self._refused = True
        retry_after = {"retry-after": str(RETRY_S)} if status == 503 else {}
        return HTTPException(status, detail, {"connection": "close", **retry_after})

    async def receive(self) -> Message:
        """See ASGI. Raises HTTPException when a limit is exceeded."""
        if not self._reading:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise self.refusal(
                408, f"the body did not arrive within {self._limits.timeout_s:g} s: send it again"
            ) from None
        self._reading = message.get("more_body", False)
        self._read += len(message.get("body", b""))
        if self._read > self._limits.max_bytes:
            raise self.refusal(413, self._limits.too_large)
        self._count()
        return message

    def _count(self) -> None:
        added = max(0, self._read - FREE_BYTES) - self.counted
        if self._limits.held + added > self._limits.total_bytes:
            raise self.refusal(503, "too many request bodies at once: retry after the interval in `Retry-After`")
        self.counted += added
        self._limits.held += added

    async def send(self, message: Message) -> None:
        """See ASGI. The response to a refused body stays open until `drop`.

        A response before the end of a body that was read in part refuses the rest.
        """
        if message["type"] == "http.response.start" and self._read and self._reading:
            self._refused = True
            MutableHeaders(scope=message)["connection"] = "close"
        held_open = self._refused and message["type"] == "http.response.body"
        await self._send({**message, "more_body": True} if held_open else message)

    async def drop(self) -> None:
        """Drain a refused body for at most `REFUSED_BODY_DRAIN_S`, then end the response."""
        if not self._refused:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(REFUSED_BODY_DRAIN_S):
                while (await self._receive()).get("more_body", False):
                    pass
        await self._send({"type": "http.response.body", "body": b""})


def _content_length(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdecimal() else 0
