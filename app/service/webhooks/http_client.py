"""SSRF-safe HTTP client, for webhooks and the rewriter of prompts.

It resolves the host once, rejects non-public addresses and connects to a validated IP, so DNS rebinding has no effect.
TLS still verifies the name; `SSL_CERT_FILE` replaces the trusted authorities. Redirects and proxies are ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from models.compressed_answers import ACCEPT_ENCODING, is_unpackable
from models.public_addresses import Resolver, is_public_address, resolve_host

DELIVERY_TIMEOUT_S = 15.0
"""Total seconds for name lookup, connection and response status."""


class DeliveryError(Exception):
    """The delivery failed; `final` if a retry is pointless."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


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
                "accept-encoding": ACCEPT_ENCODING,
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
    if not is_unpackable(answer.headers):
        raise DeliveryError("the answer is compressed in another way than gzip or deflate")
    found = bytearray()
    async for part in answer.aiter_bytes():
        found += part
        if len(found) > max_bytes:
            raise DeliveryError(f"the answer exceeds {max_bytes} bytes")
    return bytes(found)
