"""What is refused whatever it asks for: requests beyond the limit of connections, and hosts that are not this one."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import from_error, instance
from app.errors import Unavailable

CROWDED = "frontrunner.crowded"
"""Set in a request's state when its connection is one too many."""

HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes of operators, who ask by addresses and when a server is in trouble."""


class Admission:
    """Health is told always; anything else only to as many connections as are allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in HEALTH and scope["state"].get(CROWDED):
            answer = from_error(Unavailable("every connection that the server may hold is busy"), instance(scope))
            answer.headers["connection"] = "close"
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)
