"""POST to an address that a stranger has chosen, without lending him our place in the network.

The name is resolved here, every address it has is checked, and the connection goes to a checked one: a name that
changes its mind between check and connect changes nothing. TLS checks the name all the same; `SSL_CERT_FILE` trusts
other authorities than the usual ones. No redirect is followed, no proxy asked, no answer read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import httpx

TIMEOUT_S = 15.0
"""For all of it: the name, the connection, the answer's first line."""

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""From a host and a port to addresses. Raises OSError."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Undelivered(Exception):
    """The receiver has not taken it; `final` when another attempt would be in vain."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


async def resolve(host: str, port: int) -> list[str]:
    """As the machine resolves."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Poster:
    """`private` allows addresses that are not the public internet's."""

    def __init__(self, *, private: bool = False, resolver: Resolver = resolve, timeout_s: float = TIMEOUT_S) -> None:
        self._private = private
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=httpx.create_ssl_context(), trust_env=False, follow_redirects=False, timeout=timeout_s
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Return when the receiver has answered 2xx. Raises Undelivered."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(httpx.URL(url), body, headers)
        except TimeoutError:
            raise Undelivered("the receiver takes too long") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise Undelivered(f"the receiver cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise Undelivered(f"the receiver answered {status}", final=status == httpx.codes.GONE)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _post(self, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> int:
        address = await self._checked(url)
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={
                **headers,
                "host": url.netloc.decode("ascii"),
                "content-type": "application/json",
                "user-agent": "frontrunner",
                "connection": "close",
            },
            # TLS greets and checks the name, though the connection goes to the address.
            extensions={"sni_hostname": url.host},
        )
        answer = await self._client.send(request, stream=True)
        await answer.aclose()
        return answer.status_code

    async def _checked(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._resolver(url.host, port)
        if not addresses:
            raise Undelivered("the receiver's name has no address")
        if not self._private and not all(public(address) for address in addresses):
            raise Undelivered("the receiver's address is not one of the public internet")
        return addresses[0]


def public(address: str) -> bool:
    """Whether an IP address is one of the public internet; an IPv4 one in the clothes of IPv6 counts as itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
