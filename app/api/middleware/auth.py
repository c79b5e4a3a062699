"""Authenticate API requests by key, before routing and reading the body.

Health, metrics, API documents and the studio need no key. `app.service.auth` defines what a key permits. In place of a
key, a signed link reads its image.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.hosts import route_path
from app.api.problems import WEB_UI_PREFIX, from_error, instance
from app.api.sse import SSE_MEDIA_TYPE, encode_error_event
from app.errors import FrontrunnerError, StoreUnavailable, Unauthorized
from app.service import ApiKeyAuthenticator, Caller, LinkSigner, Permission, SignedLink, as_caller, using_links

MCP_PATH = "/mcp"

OPEN_PATHS = ("/v1/receipts/key",)
"""Paths of the API that need no key."""

PROTECTED_PREFIXES = ("/v1/", WEB_UI_PREFIX, MCP_PATH)
"""Prefixes, since a route also matches its path followed by a line break."""

RECHECK_S = 2.0
"""Interval at which the key of a long request is checked again."""

_IMAGE_PATH = re.compile(
    r"/v1/generations/(gen_[0-9A-HJKMNP-TV-Z]{26})/images/([0-9]{1,10})(?:\.(?:png|webp|jpeg|jpg))?", re.ASCII
)

_RANKING_PATHS = ("/v1/rank", "/v1/rerank", "/v1/embeddings", "/v1/taste/")
_READING_PATHS = tuple(f"{WEB_UI_PREFIX}v1/{name}" for name in ("options", "png-info", "refresh-"))


class ApiKeyMiddleware:
    """Require a valid key for the APIs, unless the server has no keys.

    The authenticator is `app.state.authenticator`, the signer of links `app.state.links`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not _is_protected(route_path(scope)):
            await self._app(scope, receive, send)
            return
        authenticator: ApiKeyAuthenticator = scope["app"].state.authenticator
        signer: LinkSigner = scope["app"].state.links
        check = partial(
            authenticator.authenticate,
            _presented_key(scope),
            required_permission(scope["method"], route_path(scope)),
        )
        try:
            try:
                caller = await check()
            except Unauthorized:
                if (link := _signed_link(scope)) is None:
                    raise
                await signer.verify(link)
                caller = None
            if caller is not None:
                await signer.load()
        except FrontrunnerError as error:
            await from_error(error, instance(scope))(scope, receive, send)
            return
        if caller is None:
            with as_caller(None):
                await self._app(scope, receive, send)
        else:
            with using_links(signer=signer):
                await _AuthenticatedRequest(self._app, caller, check)(scope, receive, send)


class _AuthenticatedRequest:
    """One request with a key.

    When the key is revoked, the app receives a disconnect and the client an error.
    """

    def __init__(self, app: ASGIApp, caller: Caller, check: Callable[[], Awaitable[object]]) -> None:
        self._app = app
        self._caller = caller
        self._check = check
        self._refusal: FrontrunnerError | None = None
        self._receiving: asyncio.Timeout | None = None
        self._started = False
        self._streams_events = False
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        watching = asyncio.create_task(self._watch())
        try:
            with as_caller(self._caller):
                await self._app(scope, partial(self._receive, receive), partial(self._send, send))
        finally:
            watching.cancel()
        if self._refusal is not None and not self._started:
            await from_error(self._refusal, instance(scope))(scope, receive, send)
        elif self._refusal is not None and not self._ended:
            event, document = encode_error_event(self._refusal), from_error(self._refusal, instance(scope)).body
            await send({"type": "http.response.body", "body": event if self._streams_events else document})

    async def _watch(self) -> None:
        while self._refusal is None:
            await asyncio.sleep(RECHECK_S)
            try:
                await self._check()
            except StoreUnavailable:
                continue
            except FrontrunnerError as error:
                self._refusal = error
        if self._receiving is not None:
            self._receiving.reschedule(asyncio.get_running_loop().time())

    async def _receive(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(0 if self._refusal is not None else None) as self._receiving:
                return await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        finally:
            self._receiving = None

    async def _send(self, send: Send, message: Message) -> None:
        if self._refusal is not None and not self._started:
            return
        if message["type"] == "http.response.start":
            self._started = True
            headers = MutableHeaders(scope=message)
            self._streams_events = headers.get("content-type", "").startswith(SSE_MEDIA_TYPE)
            headers.update(_rate_limit_headers(self._caller))
        else:
            self._ended = not message.get("more_body", False)
        await send(message)


def _is_protected(path: str) -> bool:
    return path.startswith(PROTECTED_PREFIXES) and path not in OPEN_PATHS


def required_permission(method: str, path: str) -> Permission | None:
    """The permission that a request requires; None for any valid key.

    Reading requires `READ`, ranking and voting `RANK`, everything else `GENERATE`. Tools of MCP make requests of their
    own, which are checked. Verifying touches no stored data.
    """
    if path.startswith((MCP_PATH, "/v1/verify")):
        return None
    if method in {"GET", "HEAD", "OPTIONS"} or path.startswith(_READING_PATHS):
        return Permission.READ
    if path.startswith(_RANKING_PATHS) or path.endswith("/rerank"):
        return Permission.RANK
    return Permission.GENERATE


def _signed_link(scope: Scope) -> SignedLink | None:
    """The signed link to an image that a request without a key follows, if any."""
    image = _IMAGE_PATH.fullmatch(route_path(scope)) if scope["method"] in {"GET", "HEAD"} else None
    if image is None or _presented_key(scope) is not None:
        return None
    query = QueryParams(scope["query_string"])
    if "signature" not in query:
        return None
    return SignedLink(image[1], int(image[2]), query.get("expires", ""), query["signature"])


def _presented_key(scope: Scope) -> str | None:
    """The key of a request.

    Clients of the web UI may send it as the password of any user.
    """
    headers = Headers(scope=scope)
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and route_path(scope).startswith(WEB_UI_PREFIX):
        return _password(value)
    return headers.get("x-api-key")


def _password(credentials: str) -> str:
    """The password of Basic credentials (RFC 7617); "" if they are malformed."""
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8", "replace").partition(":")[2]
    except binascii.Error:
        return ""


def _rate_limit_headers(caller: Caller) -> dict[str, str]:
    """RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10), once charged."""
    if caller.quota_remaining is None:
        return {}
    remaining, reset_s = caller.quota_remaining
    policy = f'"candidates";q={caller.key.quota};qu="candidates";w={caller.key.window_s}'
    return {"ratelimit-policy": policy, "ratelimit": f'"candidates";r={remaining};t={reset_s}'}
