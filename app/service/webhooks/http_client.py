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

DELIVERY_TIMEOUT_S = 15.0
"""For all of it: the name, the connection, the answer's first line."""

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""From a host and a port to addresses. Raises OSError."""

_IPV4_REFUSED = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private use
        "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # host agent of Azure, the one metadata address within public space
        "169.254.0.0/16",  # link-local, and the metadata services of most clouds
        "172.16.0.0/12",  # private use
        "192.0.0.0/24",  # IETF protocol assignments, and the metadata service of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # automatic multicast tunnelling
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private use
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and limited broadcast
    )
)
"""The IANA special-purpose registry, multicast, and the metadata addresses of clouds."""

_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is allocated for global unicast; loopback, unique-local, link-local, site-local and others lie outside."""

_IPV6_REFUSED = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
"""The IANA special-purpose registry inside global unicast."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class DeliveryError(Exception):
    """The receiver has not taken it; `final` when another attempt would be in vain."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


async def resolve_host(host: str, port: int) -> list[str]:
    """As the machine resolves."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class WebhookClient:
    """`allow_private` allows addresses that are not the public internet's."""

    def __init__(
        self, *, allow_private: bool = False, resolver: Resolver = resolve_host, timeout_s: float = DELIVERY_TIMEOUT_S
    ) -> None:
        self._allow_private = allow_private
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=httpx.create_ssl_context(), trust_env=False, follow_redirects=False, timeout=timeout_s
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Return when the receiver has answered 2xx. Raises DeliveryError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(httpx.URL(url), body, headers)
        except TimeoutError:
            raise DeliveryError("the receiver takes too long") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise DeliveryError(f"the receiver cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise DeliveryError(f"the receiver answered {status}", final=status == httpx.codes.GONE)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _post(self, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> int:
        address = await self._validated_address(url)
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

    async def _validated_address(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._resolver(url.host, port)
        if not addresses:
            raise DeliveryError("the receiver's name has no address")
        if not self._allow_private and not all(is_public_address(address) for address in addresses):
            raise DeliveryError("the receiver's address is not one of the public internet")
        return addresses[0]


def is_public_address(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    IPv4 inside IPv6 (mapped, or by the well-known NAT64 prefix) is judged as IPv4. The tables are kept here because
    `ipaddress.is_global` differs between releases of Python and knows no cloud.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is None:
            return ip in _IPV6_UNICAST and not any(ip in block for block in _IPV6_REFUSED)
        ip = inner
    return not any(ip in block for block in _IPV4_REFUSED)
