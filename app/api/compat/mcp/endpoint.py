"""/mcp: the Model Context Protocol over HTTP, loaded at the first request.

Owns the checks before the protocol: origin, size and shape of the body. The package `mcp` takes a second to import, so
the start of the service does not wait for it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from contextlib import AsyncExitStack
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from app.api import json_body
from app.api.hosts import Hosts
from app.api.problems import from_error, instance
from app.errors import Draining, NotFound
from app.service import current_owner

log = logging.getLogger(__name__)

PATH = "/mcp"
METHODS = ("GET", "POST", "DELETE")

Mode = Literal["sessions", "stateless", "off"]


class McpEndpoint:
    """An ASGI app. `run` must run in the background while it serves.

    In `mode` "sessions" a client is bound to one replica, and may cancel calls by a notification. In "stateless" any
    replica serves any request, and a client cancels by disconnecting. `origins` are those of browser apps.
    """

    def __init__(self, mode: Mode, hosts: Hosts, origins: tuple[str, ...], max_bytes: int) -> None:
        self._mode = mode
        self._offered = mode != "off" and importlib.util.find_spec("mcp") is not None
        self._hosts = hosts
        self._origins = origins
        self._max_bytes = max_bytes
        self._unusable = ""
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._manager: Any = None

    def route(self) -> Route:
        """The route of this endpoint."""
        return Route(PATH, self, methods=METHODS, include_in_schema=False)

    async def run(self) -> None:
        """Load the protocol once it is wanted, and serve sessions until cancelled."""
        await self._wanted.wait()
        try:
            async with AsyncExitStack() as stack:
                self._manager = await asyncio.to_thread(self._load)
                await stack.enter_async_context(self._manager.run())
                self._ready.set()
                await asyncio.Event().wait()
        except ImportError:
            log.exception("MCP is not offered: the installed package `mcp` does not fit")
            self._unusable = "the installed package `mcp` does not fit this service: install the extra `mcp`"
            self._ready.set()

    def close(self) -> None:
        """End the streams that only wait for messages, so that the server can stop."""
        self._closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises HTTPException 400, 403 and 413."""
        if not self._offered:
            detail = "this server does not offer MCP: install the extra `mcp` and set FRONTRUNNER_MCP"
            await from_error(NotFound(detail), instance(scope))(scope, receive, send)
            return
        if self._closing.is_set():
            error = Draining("this replica is shutting down: retry after the interval in `Retry-After`")
            await from_error(error, instance(scope))(scope, receive, send)
            return
        self._check_origin(scope)
        if scope["method"] == "POST":
            receive = await _checked_body(scope, receive)
        elif scope["method"] == "GET":
            receive = self._ending(receive)
        self._wanted.set()
        await self._ready.wait()
        if self._unusable:
            await from_error(NotFound(self._unusable), instance(scope))(scope, receive, send)
            return
        response = _Completed(send)
        await self._manager.handle_request(_with_owner(scope), receive, response.send)
        await response.complete()

    def _load(self) -> Any:
        from mcp.server.transport_security import TransportSecuritySettings

        from app.api.compat.mcp.in_process import in_process_client
        from app.api.compat.mcp.server import build_server, connected

        def connect(context: Any) -> Any:
            scope = context.request_context.request.scope
            return connected(in_process_client(scope), self._hosts.origin(scope))

        server = build_server(connect)
        server.streamable_http_app(
            stateless_http=self._mode == "stateless",
            max_request_body_size=self._max_bytes,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        return server.session_manager

    def _check_origin(self, scope: Scope) -> None:
        """Refuse pages of other origins: also those that point their name at this host."""
        origin = Headers(scope=scope).get("origin")
        allowed = origin is None or "*" in self._origins or origin.lower() in self._origins
        if not allowed and not self._hosts.trusts_origin(origin or "", scope):
            raise HTTPException(403, "this origin is not allowed: add it to the setting FRONTRUNNER_CORS_ORIGINS")

    def _ending(self, receive: Receive) -> Receive:
        """`receive` that reports a disconnect once the server stops."""

        async def receive_or_end() -> Message:
            receiving = asyncio.ensure_future(receive())
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                await asyncio.wait({receiving, closing}, return_when=asyncio.FIRST_COMPLETED)
                return receiving.result() if receiving.done() else {"type": "http.disconnect"}
            finally:
                receiving.cancel()
                closing.cancel()

        return receive_or_end


class _Completed:
    """Completes a response that was left open, as that of an ended stream is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open = False

    async def send(self, message: Message) -> None:
        """See ASGI."""
        self._open = message["type"] == "http.response.start" or bool(message.get("more_body", False))
        await self._send(message)

    async def complete(self) -> None:
        """Send the last part, unless it was sent."""
        if self._open:
            await self._send({"type": "http.response.body", "body": b""})


def _with_owner(scope: Scope) -> Scope:
    """The scope with the caller's key as user, which binds sessions to it."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    owner = current_owner()
    if not owner:
        return scope
    return {**scope, "user": AuthenticatedUser(AccessToken(token="", client_id=owner, scopes=[]))}


async def _checked_body(scope: Scope, receive: Receive) -> Receive:
    """`receive` that returns the body again, once it is JSON within the limits.

    Raises InvalidJson, and HTTPException 413.
    """
    body = await Request(scope, receive).body()
    json_body.parse(body)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
