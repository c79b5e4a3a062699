"""Headers of trusted proxies, the path prefix, and slashes at the end of paths.

`X-Forwarded-Proto`, `-For`, `-Host` and `-Prefix` count only from trusted addresses. The path in the scope always
begins with the prefix, whether a proxy removes it or not; `app.api.hosts.route_path` is the rest.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.service import using_links

log = logging.getLogger(__name__)

FORWARDED = ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix")
"""Headers that change links."""

MAX_PREFIX_CHARS = 256

_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")


def clean_prefix(text: str) -> str | None:
    """A path prefix without a trailing slash, "" for none; None if it is not valid.

    A prefix that begins with /v1 is not valid: it could not be distinguished from a route.
    """
    prefix = text.strip().rstrip("/")
    fits = len(prefix) <= MAX_PREFIX_CHARS and _PREFIX.fullmatch(prefix) and not f"{prefix}/".startswith("/v1/")
    return prefix if fits else None


class TrustedProxies:
    """Addresses and networks of proxies; `*` trusts every address."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._all = "*" in self.names
        self._networks = [ipaddress.ip_network(name, strict=False) for name in self.names if name != "*"]

    def __contains__(self, host: object) -> bool:
        if self._all:
            return True
        try:
            address = ipaddress.ip_address(str(host))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class ForwardedMiddleware:
    """Apply the headers of trusted proxies, and the prefix.

    `prefix` is used where no trusted `X-Forwarded-Prefix` comes; with `fixed`, always.
    """

    def __init__(self, app: ASGIApp, proxies: TrustedProxies, prefix: str, *, fixed: bool) -> None:
        self._app = app
        self._forwarded = ProxyHeadersMiddleware(app, "*" if "*" in proxies.names else proxies.names)  # type: ignore[arg-type]
        self._proxies = proxies
        self._prefix = prefix
        self._fixed = fixed
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        peer = (scope.get("client") or ("", 0))[0]
        trusted = peer in self._proxies
        if not trusted:
            self._warn(scope, peer)
        prefix = self._prefix_of(scope, trusted=trusted)
        if prefix and scope["path"] == prefix:
            await RedirectResponse(f"{prefix}/", 307)(scope, receive, send)
            return
        scope["root_path"] = prefix
        scope["path"] = prefix + _without_slash(_without(prefix, scope["path"]))
        if trusted:
            _take_host(scope)
        with using_links(prefix=prefix):
            await (self._forwarded if trusted else self._app)(scope, receive, send)  # type: ignore[arg-type]

    def _prefix_of(self, scope: Scope, *, trusted: bool) -> str:
        values = Headers(scope=scope).getlist("x-forwarded-prefix")
        if self._fixed or not trusted or not values:
            return self._prefix
        parts = [part.strip().rstrip("/") for value in values for part in value.split(",")]
        found = clean_prefix("".join(parts))
        return self._prefix if found is None else found

    def _warn(self, scope: Scope, peer: str) -> None:
        """Log once that headers of an untrusted proxy have no effect."""
        names = [name for name in FORWARDED if name in Headers(scope=scope)]
        if self._warned or not names:
            return
        self._warned = True
        log.warning(
            "%s from %s is ignored: if this is your proxy, add its address to FRONTRUNNER_TRUSTED_PROXIES or set "
            "FRONTRUNNER_PUBLIC_URL",
            " and ".join(names),
            peer or "an unknown address",
        )


def _without(prefix: str, path: str) -> str:
    """The path without the prefix.

    Clients that append a link to a base URL with the same prefix send it twice.
    """
    while prefix and path.startswith(f"{prefix}/"):
        path = path.removeprefix(prefix)
    return path


def _without_slash(path: str) -> str:
    """The path without one slash at its end.

    Clients of MCP and of web UIs append one; a redirect would lose the body of their requests.
    """
    return path.removesuffix("/") or "/"


def _take_host(scope: Scope) -> None:
    """Replace `Host` by the host that the client sent to the first proxy."""
    named = Headers(scope=scope).get("x-forwarded-host", "").split(",")[0].strip()
    if named:
        MutableHeaders(scope=scope)["host"] = named
