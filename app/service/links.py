"""Links to images: paths under the public prefix, signed on servers with keys.

A signature covers the generation, the index and the time of expiry. Format and size are free: they show the same image.
`LinkSigner` owns the keys; `using_links` sets the prefix and the signer of the current request.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from app.errors import InvalidLink, LinkExpired, StoreUnavailable
from app.stores.protocols import ApiKeyStore

SECRETS_TTL_S = 2.0
"""Seconds a replica caches the signing keys of the store."""

ROUNDING = 4
"""A link expires at a multiple of the lifetime divided by this number.

Repeated answers then hold equal links.
"""

GENERATIONS_PATH = "/v1/generations"
BATCHES_PATH = "/v1/batches"


@dataclass(frozen=True, slots=True)
class SignedLink:
    """What a signed link names; the last two are as received."""

    generation_id: str
    index: int
    expires: str
    signature: str


class LinkSigner:
    """Signs and verifies image links.

    The first of `configured` signs and all verify; without any, the keys are those of the store. A link lives
    `lifetime_s`, or up to a quarter longer. `clock` is `GenerationStore.clock`.
    """

    def __init__(
        self, store: ApiKeyStore, configured: Sequence[str], lifetime_s: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._fixed = bool(configured)
        self._secrets = [text.encode() for text in configured]
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._read_at = -float("inf")
        self._read_lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the keys unless they are recent. Raises StoreUnavailable without any."""
        async with self._read_lock:
            if self._fixed or time.monotonic() - self._read_at <= SECRETS_TTL_S:
                return
            try:
                self._secrets = [text.encode() for text in await self._store.link_secrets()]
            except StoreUnavailable:
                if not self._secrets:
                    raise
            self._read_at = time.monotonic()

    def query(self, generation_id: str, index: int) -> str:
        """The query that signs an image's path; call `load` before."""
        step = max(1, int(self._lifetime_s / ROUNDING))
        expires = (int(self._clock() + self._lifetime_s) // step + 1) * step
        return f"expires={expires}&signature={_sign(self._secrets[0], generation_id, index, str(expires))}"

    async def verify(self, link: SignedLink) -> None:
        """Raises InvalidLink, LinkExpired, StoreUnavailable."""
        await self.load()
        signatures = [_sign(secret, link.generation_id, link.index, link.expires) for secret in self._secrets]
        given = link.signature.encode("utf-8", "surrogatepass")
        if not any([hmac.compare_digest(given, signature.encode()) for signature in signatures]):  # noqa: C419
            raise InvalidLink("the signature does not belong to this image: read the generation for a valid link")
        if self.seconds_left(int(link.expires)) <= 0:
            raise LinkExpired("the link has expired: read the generation for a new one")

    def seconds_left(self, expires: int) -> int:
        """Whole seconds until this time; negative after it."""
        return int(expires - self._clock())


@dataclass(frozen=True, slots=True)
class _Links:
    prefix: str = ""
    signer: LinkSigner | None = None


_links: ContextVar[_Links] = ContextVar("links", default=_Links())  # noqa: B039


@contextmanager
def using_links(*, prefix: str | None = None, signer: LinkSigner | None = None) -> Iterator[None]:
    """In the block, links begin with `prefix` and are signed; None changes nothing."""
    current = _links.get()
    changes = {name: value for name, value in (("prefix", prefix), ("signer", signer)) if value is not None}
    token = _links.set(replace(current, **changes))  # type: ignore[arg-type]
    try:
        yield
    finally:
        _links.reset(token)


def generation_path(generation_id: str) -> str:
    """Path of a generation."""
    return f"{_links.get().prefix}{GENERATIONS_PATH}/{generation_id}"


def batch_path(batch_id: str) -> str:
    """Path of a batch."""
    return f"{_links.get().prefix}{BATCHES_PATH}/{batch_id}"


def image_path(generation_id: str, index: int, output_format: str) -> str:
    """Path of a candidate's image, with the format as suffix; signed where required."""
    signer = _links.get().signer
    query = f"?{signer.query(generation_id, index)}" if signer is not None else ""
    return f"{generation_path(generation_id)}/images/{index}.{output_format}{query}"


def _sign(secret: bytes, generation_id: str, index: int, expires: str) -> str:
    mac = hmac.digest(secret, f"image {generation_id} {index} {expires}".encode("utf-8", "surrogatepass"), "sha256")
    return urlsafe_b64encode(mac).decode("ascii").rstrip("=")
