"""By which names the service is reached: which `Host` headers are answered, and what absolute links begin with."""

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
    """`allowed` names, `*.` before one for all below it; none allows every name. `public_url` begins links if set."""

    allowed: tuple[str, ...] = ()
    public_url: str = ""

    def fault(self, scope: Scope) -> str | None:
        """Why a request's `Host` is refused; None if it is answered. HTTP/1.0 may come without one."""
        given = _given(scope)
        if len(given) != 1 and (given or scope["http_version"] != "1.0"):
            return "exactly one Host header is needed"
        name = _name(given[0]) if given else ""
        if name is None:
            return "the Host header is not a host name or an IP address"
        if given and self.allowed and not self._allows(name):
            return "this host is not served here; the setting FRONTRUNNER_ALLOWED_HOSTS lists those that are"
        return None

    def base(self, scope: Scope) -> str:
        """What links begin with, without a slash at the end: the public URL, else the `Host` header if it is known.

        It is known if it is allowed by name, is this machine's, or is the address that the connection came to.
        Of any other host links are relative (""), since anybody may write anything into the header.
        """
        if self.public_url:
            return self.public_url
        given = _given(scope)
        name = _name(given[0]) if given else None
        if not name:
            return ""
        server = scope.get("server") or ("", None)
        known = self._allows(name) if self.allowed else _is_local(name) or name == server[0]
        return str(URL(scope=scope).replace(path="", query="")) if known else ""

    def _allows(self, name: str) -> bool:
        own = (urlsplit(self.public_url).hostname or "",) if self.public_url else ()
        return any(
            name == one or (one.startswith("*.") and name.endswith(one[1:]) and name != one[1:])
            for one in (*self.allowed, *own)
        )


def _given(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]


def _name(host: str) -> str | None:
    """A `Host` header's name in lower case, without port and brackets; None for what is none."""
    found = _HOST.fullmatch(host)
    return found["name"].strip("[]").lower().rstrip(".") if found else None


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
