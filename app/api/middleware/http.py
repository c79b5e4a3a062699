"""What happens to every request before and after its route: a name, a log line, a count, and bounds on its body.

Plain ASGI. Nothing here reads a body, and nothing of a body, a query or a header is logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware.admission import HEALTH
from app.api.problems import REQUEST_ID, from_http, instance

GENERATIONS = "/v1/generations/"

LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that its sender gets to read the refusal."""

_GIVEN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CLOSE = {"connection": "close"}

log = logging.getLogger("frontrunner.access")


class Observed:
    """Names each request (`X-Request-Id`, taken over when it is a sane one), logs and counts its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope[REQUEST_ID] = request_id
        status, made = 500, ""

        async def named(message: Message) -> None:
            nonlocal status, made
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                made = headers.get("location", "").removeprefix(GENERATIONS)
            await send(message)

        start = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, named)
            finally:
                _note(scope, status, time.perf_counter() - start, made)


def _note(scope: Scope, status: int, seconds: float, made: str) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    scope["app"].state.face.metrics.answered(scope["method"], route, status, seconds)
    told = {"method": scope["method"], "route": route, "status": status, "ms": round(1000 * seconds, 1)}
    generation = made or scope.get("path_params", {}).get("generation_id")
    if generation and status < 400:
        told["generation"] = generation
    log.log(logging.DEBUG if route in HEALTH else logging.INFO, "answered", extra=told)


class BodyGuard:
    """Refuses a body that is larger than `max_bytes` (413, also when its length is not declared) or slow (408).

    Starlette's own limit answers in plain text when a route does not read the body; here it is always a problem.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _declared(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
        else:
            await self._app(scope, self._bounded(receive), send)

    def _bounded(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        left, reading = self._max_bytes, True

        async def bounded() -> Message:
            nonlocal left, reading
            if not reading:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body took too long to arrive", _CLOSE) from None
            left -= len(message.get("body", b""))
            reading = message.get("more_body", False)
            if left < 0:
                raise HTTPException(413, self._sentence(), _CLOSE)
            return message

        return bounded

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, then drop what is still coming for a moment before the connection closes."""

        async def unfinished(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await from_http(413, self._sentence(), instance(scope), _CLOSE)(scope, receive, unfinished)
        try:
            async with asyncio.timeout(LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})

    def _sentence(self) -> str:
        return f"the body is larger than the limit of {self._max_bytes} bytes"


def _declared(scope: Scope) -> int:
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isdecimal() else 0
