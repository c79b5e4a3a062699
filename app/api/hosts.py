"""Allowed `Host` headers, the origin of absolute links, the path of a route."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import URL
from starlette.types import Scope

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Allowed host names and the origin of links.

    `allowed`: names; a leading `*.` covers all subdomains; empty allows every name. `public_url`: begins with the
    origin, if set.
    """

    allowed: tuple[str, ...] = ()
    public_url: str = ""

    def fault(self, scope: Scope) -> str | None:
        """Why a request's `Host` is refused; None if it is accepted.

        Only HTTP/1.0 may omit the header.
        """
        headers = _host_headers(scope)
        if len(headers) != 1 and (headers or scope["http_version"] != "1.0"):
            return "exactly one `Host` header is required"
        name = _host_name(headers[0]) if headers else ""
        if name is None:
            return "the `Host` header must be a host name or an IP address"
        if headers and self.allowed and not self._allows(name):
            return "the `Host` header names no allowed host: use one from the setting FRONTRUNNER_ALLOWED_HOSTS"
        return None

    def origin(self, scope: Scope) -> str:
        """Scheme and host of links; "" for relative links.

        This is the public URL's if set, else the `Host` header if it is trusted. A host is trusted if it is allowed by
        name; where every name is allowed, if it is local or the address of the connection. For any other host
        links are relative, since clients can put any value into the header.
        """
        if self.public_url:
            return public_origin(self.public_url)
        headers = _host_headers(scope)
        name = _host_name(headers[0]) if headers else None
        if not name:
            return ""
        return str(URL(scope=scope).replace(path="", query="")) if self._trusts(name, scope) else ""

    def trusts_origin(self, origin: str, scope: Scope) -> bool:
        """Whether a page of this `Origin` may use a route that checks it.

        The rule is that of `origin`; the public URL's own pages may.
        """
        try:
            name = (urlsplit(origin).hostname or "").rstrip(".")
        except ValueError:
            return False
        own = bool(self.public_url) and name == urlsplit(self.public_url).hostname
        return bool(name) and (own or self._trusts(name, scope))

    def _trusts(self, name: str, scope: Scope) -> bool:
        server = scope.get("server") or ("", None)
        return self._allows(name) if self.allowed else _is_local(name) or name == server[0]

    def _allows(self, name: str) -> bool:
        own = (urlsplit(self.public_url).hostname or "",) if self.public_url else ()
        return any(
            name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]) and name != pattern[1:])
            for pattern in (*self.allowed, *own)
        )


def public_origin(public_url: str) -> str:
    """Scheme and host of a public URL."""
    parts = urlsplit(public_url)
    return f"{parts.scheme}://{parts.netloc}"


def route_path(scope: Scope) -> str:
    """The path of a request without the prefix under which clients see the service."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _host_headers(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]


def _host_name(host: str) -> str | None:
    """The lower-case name in a `Host` header, without port and brackets.

    None if it is invalid.
    """
    match = _HOST.fullmatch(host)
    return match["name"].strip("[]").lower().rstrip(".") if match else None


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
