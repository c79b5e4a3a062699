"""What is refused whatever it asks for: requests beyond the limit of connections, and hosts that are not this one."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.hosts import Hosts
from app.api.problems import from_error, from_http, instance
from app.errors import Unavailable

CROWDED = "frontrunner.crowded"
"""Set in a request's state when its connection is one too many."""

HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes of operators, who ask by addresses and when a server is in trouble."""

_CLOSE_HEADERS = {"connection": "close"}


class Admission:
    """Health is told always; anything else to hosts that are served here, over as many connections as are allowed."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
        elif scope.get("state", {}).get(CROWDED):
            crowded = Unavailable("every connection that the server may hold is busy")
            await from_error(crowded, instance(scope), _CLOSE_HEADERS)(scope, receive, send)
        elif (fault := self._hosts.fault(scope)) is not None:
            await from_http(400, fault, instance(scope), _CLOSE_HEADERS)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
