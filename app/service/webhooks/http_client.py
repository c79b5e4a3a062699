"""SSRF-safe HTTP client, for webhooks and the rewriter of prompts.

It resolves the host once, rejects non-public addresses and connects to a validated IP, so DNS rebinding has no effect.
TLS still verifies the name; `SSL_CERT_FILE` replaces the trusted authorities. Redirects and proxies are ignored.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import httpx

DELIVERY_TIMEOUT_S = 15.0
"""Total seconds for name lookup, connection and response status."""

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Resolves host and port to addresses. Raises OSError."""

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
"""IANA special-purpose registry, multicast, and cloud metadata addresses."""

_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
"""Global unicast.

Loopback, unique-local, link-local and site-local addresses are outside.
"""

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
"""IANA special-purpose registry inside global unicast."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class DeliveryError(Exception):
    """The delivery failed; `final` if a retry is pointless."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


async def resolve_host(host: str, port: int) -> list[str]:
    """Resolve with the system resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class WebhookClient:
    """`allow_private` permits non-public addresses."""

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
        """Return after a 2xx response. Raises DeliveryError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._send(httpx.URL(url), body, headers)
                await answer.aclose()
        except TimeoutError:
            raise DeliveryError(f"no response within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise DeliveryError(f"the receiver cannot be reached ({type(error).__name__})") from None
        _check_status(answer)

    async def fetch(self, url: str, body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """Return the body of a 2xx response, of at most `max_bytes`. Raises DeliveryError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._send(httpx.URL(url), body, headers)
                try:
                    _check_status(answer)
                    return await _bounded_body(answer, max_bytes)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise DeliveryError(f"no response within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise DeliveryError(f"the receiver cannot be reached ({type(error).__name__})") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _send(self, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """The response, before its body is read."""
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
            # SNI and certificate check use the name; the connection uses the address.
            extensions={"sni_hostname": url.host},
        )
        return await self._client.send(request, stream=True)

    async def _validated_address(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._resolver(url.host, port)
        if not addresses:
            raise DeliveryError("the receiver's host name has no address")
        if not self._allow_private and not all(is_public_address(address) for address in addresses):
            raise DeliveryError("the receiver's address is not public")
        return addresses[0]


def _check_status(answer: httpx.Response) -> None:
    status = answer.status_code
    if not 200 <= status < 300:
        raise DeliveryError(f"the receiver answered {status}", final=status == httpx.codes.GONE)


async def _bounded_body(answer: httpx.Response, max_bytes: int) -> bytes:
    found = bytearray()
    async for part in answer.aiter_bytes():
        found += part
        if len(found) > max_bytes:
            raise DeliveryError(f"the answer exceeds {max_bytes} bytes")
    return bytes(found)


def is_public_address(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    IPv4 inside IPv6 (mapped, or with the well-known NAT64 prefix) counts as IPv4. The tables are here because
    `ipaddress.is_global` varies between Python releases and lacks cloud addresses.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is None:
            return ip in _IPV6_UNICAST and not any(ip in block for block in _IPV6_REFUSED)
        ip = inner
    return not any(ip in block for block in _IPV4_REFUSED)
