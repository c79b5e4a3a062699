"""Cross-origin requests of browsers: from named origins, without cookies."""

from __future__ import annotations

from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import CORS_KEY, from_http, instance

EXPOSED_HEADERS = (
    "Content-Disposition",
    "ETag",
    "Location",
    "Mcp-Session-Id",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Frontrunner-Id",
    "X-Frontrunner-Score",
    "X-Frontrunner-Seed",
    "X-Request-Id",
    "X-Should-Retry",
)
"""Response headers that scripts of other origins may read."""

METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")


class NamedOrigins(CORSMiddleware):
    """Answer preflights of named origins, and add their headers to responses.

    A preflight of another origin is refused before authentication. Other requests of such an origin are served as
    before, without headers, so that a browser withholds the response.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=METHODS, allow_headers=("*",), expose_headers=EXPOSED_HEADERS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and self.is_allowed_origin(origin):
            scope[CORS_KEY] = {**self.simple_headers, "vary": "Origin"}
            if not self.allow_all_origins:
                scope[CORS_KEY]["access-control-allow-origin"] = origin
            await super().__call__(scope, receive, send)
        elif origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            detail = "this origin is not allowed: add it to the setting FRONTRUNNER_CORS_ORIGINS"
            await from_http(403, detail, instance(scope), {"vary": "Origin"})(scope, receive, send)
        else:
            await self.app(scope, receive, partial(self._send, send))

    async def _send(self, send: Send, message: Message) -> None:
        """Keep caches from answering another origin with this response."""
        if message["type"] == "http.response.start" and self.allow_origins:
            MutableHeaders(scope=message).add_vary_header("Origin")
        await send(message)
