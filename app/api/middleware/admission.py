"""Refuse requests over the connection limit, for unknown hosts or odd paths."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.hosts import Hosts, route_path
from app.api.problems import from_error, from_http, instance
from app.errors import Unavailable

CROWDED = "frontrunner.crowded"
"""State key: the request's connection exceeds the connection limit."""

HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes exempt from both checks: probes use IP addresses, also under overload."""

_CLOSE_HEADERS = {"connection": "close"}


class Admission:
    """Pass health routes always, other routes for allowed hosts within the limit.

    A path with a line break is unknown: load balancers do not recognise it as the route that would match it.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or route_path(scope) in HEALTH:
            await self._app(scope, receive, send)
        elif "\n" in scope["path"]:  # Starlette's routes also match a path with a line break at the end
            detail = "no route has this path: see /docs for all routes"
            await from_http(404, detail, instance(scope))(scope, receive, send)
        elif scope.get("state", {}).get(CROWDED):
            error = Unavailable("the server is at its connection limit: retry after the interval in `Retry-After`")
            await from_error(error, instance(scope), _CLOSE_HEADERS)(scope, receive, send)
        elif (refusal := self._hosts.fault(scope)) is not None:
            await from_http(400, refusal, instance(scope), _CLOSE_HEADERS)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
