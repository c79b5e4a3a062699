"""What happens to every request before and after its route: a name, a log line, a count, and bounds on its body.

Plain ASGI. Nothing here reads a body, and nothing of a body, a query or a header is logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware.admission import HEALTH
from app.api.problems import REQUEST_ID_KEY, from_http, instance

GENERATIONS_PATH = "/v1/generations/"

REFUSED_BODY_DRAIN_S = 2.0
"""How long the rest of a refused body is read and dropped, so that its sender gets to read the refusal."""

FREE_BYTES = 65_536
"""Of each body, which do not count towards the limit of all: requests without pictures pass while others fill it."""

RETRY_S = 5
"""How soon a body may be sent again that was one too many."""

_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

log = logging.getLogger("frontrunner.access")


class AccessLogMiddleware:
    """Names each request (`X-Request-Id`, taken over when it is a sane one), logs and counts its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_request_id = Headers(scope=scope).get("x-request-id", "")
        request_id = client_request_id if _REQUEST_ID_PATTERN.fullmatch(client_request_id) else uuid.uuid4().hex
        scope[REQUEST_ID_KEY] = request_id
        status, created_id = 500, ""

        async def send_with_request_id(message: Message) -> None:
            nonlocal status, created_id
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                created_id = headers.get("location", "").removeprefix(GENERATIONS_PATH)
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
    """Refuses a body that is larger than `max_bytes` (413, also when its length is not declared) or slow (408).

    Also one (503) that would make all bodies of requests in progress hold more than `total_bytes`; the first
    `FREE_BYTES` of each do not count. Starlette's own limit answers in plain text; here it is always a problem.
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
        """What is wrong with a body that is larger than the limit."""
        return f"the body is larger than the limit of {self.max_bytes} bytes"


class _Body:
    """The body of one request. What is still to come of a refused one is dropped, so that its sender reads why."""

    def __init__(self, guard: BodyLimitMiddleware, receive: Receive, send: Send) -> None:
        self.counted = 0
        self._guard = guard
        self._receive = receive
        self._send = send
        self._deadline = asyncio.get_running_loop().time() + guard.timeout_s
        self._read = 0
        self._reading = True
        self._refused = False

    def refusal(self, status: int, detail: str) -> HTTPException:
        """The error to raise, once no more of the body is taken."""
        self._refused = True
        pause = {"retry-after": str(RETRY_S)} if status == 503 else {}
        return HTTPException(status, detail, {"connection": "close", **pause})

    async def receive(self) -> Message:
        """See ASGI. Raises HTTPException where a limit is passed."""
        if not self._reading:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise self.refusal(408, "the body took too long to arrive") from None
        self._reading = message.get("more_body", False)
        self._read += len(message.get("body", b""))
        if self._read > self._guard.max_bytes:
            raise self.refusal(413, self._guard.too_large)
        self._count()
        return message

    def _count(self) -> None:
        more = max(0, self._read - FREE_BYTES) - self.counted
        if self._guard.held + more > self._guard.total_bytes:
            raise self.refusal(503, "the server holds as many bytes of request bodies as it may: try again later")
        self.counted += more
        self._guard.held += more

    async def send(self, message: Message) -> None:
        """See ASGI. The answer to a refused body stays open until `drop`."""
        held_open = self._refused and message["type"] == "http.response.body"
        await self._send({**message, "more_body": True} if held_open else message)

    async def drop(self) -> None:
        """Read what is still to come of a refused body for `REFUSED_BODY_DRAIN_S`, then end the answer."""
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
