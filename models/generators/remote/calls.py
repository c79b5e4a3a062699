"""Requests to a remote generator: bounded, limited, repeated, never redirected.

The operator names the remote, so its own address may be private. Addresses in its answers may not, unless they belong
to the same server. Messages hold neither addresses nor keys.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import httpx

from models.compressed_answers import ACCEPT_ENCODING, is_unpackable
from models.generators.remote.addresses import RemoteAddress
from models.generators.remote.answers import Busy, check_status, read_json
from models.generators.remote.limits import Budget, Lost, Pace, Turns
from models.load_options import RemoteLimits
from models.protocols.narrow import CallCounts
from models.public_addresses import Resolver, is_public_address, resolve_host

Build: TypeAlias = Callable[[httpx.AsyncClient], httpx.Request]
"""Makes the request of one attempt."""

MAX_PICTURE_BYTES = 32 * 2**20
"""Maximum bytes of one image file."""

MAX_OTHER_BYTES = 2**20
"""Maximum bytes of an answer beside its images."""

MAX_LIST_BYTES = 16 * 2**20
"""Maximum bytes of a list of models."""

_MADE_NONE = frozenset({503, 529})
"""Statuses from 500 of remotes that are busy, so that they made no image."""

CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
LONGEST_BACKOFF_S = 30.0


class Calls:
    """Calls to one remote, within its limits. Use in one event loop."""

    def __init__(
        self,
        address: RemoteAddress,
        limits: RemoteLimits,
        headers: Mapping[str, str],
        *,
        budget: Budget | None = None,
        resolver: Resolver = resolve_host,
    ) -> None:
        self._address = address
        self._limits = limits
        self._headers = dict(headers)
        sent = (value.rpartition(" ")[2] for value in self._headers.values())
        self._secrets = tuple(filter(None, (limits.api_key, *sent, address.base.host)))
        self._resolver = resolver
        self._turns = Turns(limits.concurrency)
        self._pace = Pace(limits.per_minute)
        self._budget = budget or Budget(limits)
        self.counts = CallCounts()
        connections = httpx.Limits(max_keepalive_connections=0)
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        context = httpx.create_ssl_context()
        coding = {"accept-encoding": ACCEPT_ENCODING}
        self._http = httpx.AsyncClient(
            verify=context, headers={**coding, **self._headers}, timeout=timeout, limits=connections
        )
        self._anonymous = httpx.AsyncClient(
            verify=context, headers=coding, trust_env=False, timeout=timeout, limits=connections
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()
        await self._anonymous.aclose()

    async def ask(self, path: str) -> Any:
        """The JSON of a GET, outside of the limits of images. Raises Lost."""
        request = self._http.build_request("GET", f"{self._address.base}{path}")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                status, headers, body = await _exchange(self._http, request, MAX_LIST_BYTES)
            check_status(status, headers, body, self._secrets)
            return read_json(body)
        except Busy as busy:
            raise busy.lost from None
        except (TimeoutError, httpx.HTTPError):
            raise Lost("unreachable", "cannot be reached; check its address and whether it runs") from None

    async def make(self, order: object, images: int, build: Build, deadline: float) -> Any:
        """The JSON answer to a request for this many images.

        Waits for a turn of `order`, and repeats what may succeed until the deadline, in seconds of the loop's clock.
        Raises Lost.
        """
        clock = asyncio.get_running_loop().time
        for attempt in range(self._limits.attempts):
            try:
                async with self._turns.turn(order):
                    await self._pace.wait(deadline)
                    with self._counted():
                        return await self._attempt(images, build, deadline)
            except Busy as busy:
                backoff = min(LONGEST_BACKOFF_S, self._limits.backoff_s * 2**attempt) * random.uniform(0.75, 1.25)
                pause = backoff if busy.after_s is None else busy.after_s
                if busy.after_s is not None:
                    self._pace.pause(busy.after_s)
                if attempt + 1 == self._limits.attempts:
                    raise busy.lost from None
                if clock() + pause > deadline:
                    raise Lost(
                        busy.lost.reason, f"{busy.lost.detail}; asks to wait {pause:.0f} s, beyond the deadline"
                    ) from None
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a call by how it ends; `failed` stands for an unexpected error."""
        began, outcome = time.monotonic(), "failed"
        try:
            yield
            outcome = "answered"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Busy as busy:
            outcome = busy.lost.reason
            raise
        except Lost as lost:
            outcome = lost.reason
            raise
        finally:
            self.counts += CallCounts({outcome: 1}, {outcome: time.monotonic() - began})

    async def _attempt(self, images: int, build: Build, deadline: float) -> Any:
        """One request. The money of images that it cannot have made is given back."""
        limit = min(self._limits.timeout_s, deadline - asyncio.get_running_loop().time())
        most = images * MAX_PICTURE_BYTES * 4 // 3 + MAX_OTHER_BYTES
        day = self._budget.spend(images)
        try:
            async with asyncio.timeout(limit):
                status, headers, body = await _exchange(self._http, build(self._http), most)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._budget.refund(images, day)
            raise Busy(Lost("unreachable", "cannot be reached; check its address and whether it runs")) from None
        except TimeoutError:
            raise Lost("timeout", f"made no image within {limit:.3g} s") from None
        except httpx.DecodingError:
            raise Lost("unreadable", "sends an answer that cannot be decompressed") from None
        except httpx.HTTPError:
            raise Busy(Lost("unreachable", "cuts the connection")) from None
        try:
            check_status(status, headers, body, self._secrets)
        except (Lost, Busy):
            if status in _MADE_NONE or (status < 500 and status != httpx.codes.REQUEST_TIMEOUT):
                self._budget.refund(images, day)
            raise
        return read_json(body)

    async def picture(self, link: str) -> bytes:
        """The file behind a link of an answer. Raises Lost."""
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await self._picture(self._address.base.join(link))
        except TimeoutError:
            raise Lost("timeout", "does not send the image behind its link in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError):
            raise Lost("unreadable", "links to an image that cannot be read") from None

    async def _picture(self, url: httpx.URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            own = self._address.is_same_origin(url)
            client = self._http if own else self._anonymous
            request = client.build_request("GET", url) if own else await self._guarded(url)
            status, headers, body = await _exchange(client, request, MAX_PICTURE_BYTES)
            if status in (301, 302, 303, 307, 308) and "location" in headers:
                url = url.join(headers["location"])
                continue
            if status != httpx.codes.OK:
                raise Lost("unreadable", f"links to an image that answers {status}")
            return body
        raise Lost("unreadable", f"links to an image with more than {MAX_REDIRECTS} redirects")

    async def _guarded(self, url: httpx.URL) -> httpx.Request:
        """A request to an address that was checked, without the key.

        Raises Lost for one that is not public.
        """
        if url.scheme not in ("http", "https") or url.userinfo:
            raise Lost("unreadable", "links to an image with an address that is not allowed")
        addresses = await self._resolver(url.host, url.port or (443 if url.scheme == "https" else 80))
        if not addresses or not all(map(is_public_address, addresses)):
            raise Lost("unreadable", "links to an image at an address that is not public")
        return self._anonymous.build_request(
            "GET",
            url.copy_with(host=addresses[0]),
            headers={"host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.host},
        )


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, most: int) -> tuple[int, httpx.Headers, bytes]:
    """Status, headers and body of an answer.

    Raises Lost above `most` bytes and for compressions that are not unpacked, and the errors of httpx.
    """
    response = await client.send(request, stream=True)
    try:
        if not is_unpackable(response.headers):
            raise Lost("unreadable", "sends an answer that is compressed in another way than gzip or deflate")
        read = bytearray()
        async for part in response.aiter_bytes():
            read += part
            if len(read) > most:
                raise Lost("unreadable", f"sends more than {most // 2**20} MiB")
        return response.status_code, response.headers, bytes(read)
    finally:
        await response.aclose()
