"""The API key of the current request: permissions, visibility and remaining quota.

The caller is a context variable, set once before a request reaches its route, so that every use case sees it.
Background work has no caller and no limits; the same holds for all requests while no key exists.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from asyncio import Lock
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from app.errors import Forbidden, InvalidRequest, QuotaExceeded, StoreUnavailable, Unauthorized
from app.stores.protocols import ApiKey, ApiKeyStore, IdempotencyMatch, Permission, QuotaCharge, QuotaUsage

KEY_CACHE_TTL_S = 2.0
"""Seconds a replica caches the keys; a revoked one may work that long."""

KEY_PREFIX = "fr"
"""Prefix of every key, for scanners of leaked secrets."""

_ID_CHARS = len(KEY_PREFIX) + 13


class Caller:
    """One request's key.

    `quota_remaining` is set after a charge: (remaining candidates, seconds to the next window).
    """

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self.key = key
        self.quota_remaining: tuple[int, int] | None = None
        self._clock = clock
        self._open = 0

    def has_permission(self, permission: Permission) -> bool:
        """Whether the key has this permission."""
        return bool({permission, Permission.ADMIN} & self.key.permissions)

    def quota_charge(self, candidates: int, pointer: str | None) -> QuotaCharge | None:
        """The charge for these candidates; None without a quota.

        Raises InvalidRequest at `pointer` if they exceed the whole quota.
        """
        quota = self.key.quota
        if quota is None:
            return None
        if candidates > quota:
            raise InvalidRequest(
                f"the request has {candidates} candidates; this key allows at most {quota}: request fewer",
                pointer=pointer,
            )
        return QuotaCharge(self.key.id, self.window, candidates, quota)

    @property
    def window(self) -> int:
        """The number of the key's current window."""
        return int(self._clock() // self.key.window_s)

    def record_usage(self, charge: QuotaCharge, usage: QuotaUsage) -> None:
        """Update the remaining quota. Raises QuotaExceeded if it was not granted."""
        remaining, reset_s = charge.quota - usage.used, (charge.window + 1) * self.key.window_s - self._clock()
        self.quota_remaining = max(0, remaining), max(1, round(reset_s))
        if not usage.granted:
            raise QuotaExceeded(
                f"this key allows {charge.quota} candidates in {self.key.window_s} s and has {remaining} left: "
                f"request fewer, or retry in {self.quota_remaining[1]} s",
                left=self.quota_remaining[0],
                retry_after_s=self.quota_remaining[1],
            )
        self._open = charge.candidates

    def settle_charge(self, delivered: int) -> None:
        """Add the refund for undelivered candidates to the remaining quota."""
        if self.quota_remaining is not None:
            self.quota_remaining = self.quota_remaining[0] + max(0, self._open - delivered), self.quota_remaining[1]
        self._open = 0


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """The current caller; None for background work and while no key exists."""
    return _caller.get()


def current_owner() -> str:
    """Owner of newly created objects: the key's id, or "" without a key."""
    caller = current_caller()
    return caller.key.id if caller is not None else ""


def quota_charge(candidates: int, pointer: str | None = None) -> QuotaCharge | None:
    """The charge to the caller's quota; None without a quota.

    Raises InvalidRequest if the candidates exceed the whole quota.
    """
    caller = current_caller()
    return caller.quota_charge(candidates, pointer) if caller is not None else None


def record_usage(charge: QuotaCharge | None, created: IdempotencyMatch | QuotaUsage | None) -> None:
    """Record a charge of the store. Raises QuotaExceeded if it was not granted."""
    caller = current_caller()
    if caller is not None and charge is not None and isinstance(created, QuotaUsage):
        caller.record_usage(charge, created)


def settle_charge(delivered: int) -> None:
    """Record that the charged generation ended with `delivered` candidates."""
    caller = current_caller()
    if caller is not None:
        caller.settle_charge(delivered)


def quota_limit() -> int | None:
    """Candidates that the caller may request per window; None is unlimited."""
    caller = current_caller()
    return caller.key.quota if caller is not None else None


async def remaining_quota(quota_used: Callable[[str, int], Awaitable[int]]) -> int | None:
    """Candidates remaining to the caller in this window; None is unlimited.

    `quota_used` is the method of `GenerationStore`.
    """
    caller = current_caller()
    if caller is None or caller.key.quota is None:
        return None
    return max(0, caller.key.quota - await quota_used(caller.key.id, caller.window))


def can_view(owner: str) -> bool:
    """Whether the caller may see objects of this owner."""
    caller = current_caller()
    return caller is None or owner == caller.key.id or caller.has_permission(Permission.ADMIN)


@contextmanager
def as_caller(caller: Caller | None) -> Iterator[None]:
    """Run the block on behalf of the caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class ApiKeyAuthenticator:
    """Authenticates against the stored keys, cached for `KEY_CACHE_TTL_S`.

    `clock` is `GenerationStore.clock`.
    """

    def __init__(self, store: ApiKeyStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._cached_keys: dict[str, ApiKey] = {}
        self._read_at: float | None = None
        self._failed_at = 0.0
        self._read_lock = Lock()

    async def authenticate(self, presented: str | None, permission: Permission | None) -> Caller | None:
        """The caller of the presented key; None while no key has ever been created.

        Without a `permission`, any valid key will do. Raises Unauthorized, Forbidden, and StoreUnavailable.
        """
        keys = await self._keys()
        if not keys:
            return None
        if not presented:
            raise Unauthorized("the API key is missing: send 'Authorization: Bearer ...' or 'X-API-Key: ...'")
        key = keys.get(presented[:_ID_CHARS])
        # Compare even without such a key, so that timing reveals nothing.
        matches = hmac.compare_digest(digest(presented), key.digest if key is not None else bytes(32))
        if key is None or not matches or key.revoked is not None:
            raise Unauthorized("the API key is unknown or revoked: send a valid key")
        caller = Caller(key, self._clock)
        if permission is not None and not caller.has_permission(permission):
            raise Forbidden(f"this key lacks the permission '{permission}': use a key that has it")
        return caller

    async def _keys(self) -> dict[str, ApiKey]:
        """The cached keys. Concurrent callers share one read and its failure."""
        asked = time.monotonic()
        async with self._read_lock:
            if self._failed_at > asked:
                raise StoreUnavailable("the API keys cannot be read: retry later")
            if self._read_at is None or time.monotonic() - self._read_at > KEY_CACHE_TTL_S:
                try:
                    self._cached_keys = {key.id: key for key in await self._store.list_keys()}
                except StoreUnavailable:
                    self._failed_at = time.monotonic()
                    raise
                self._read_at = time.monotonic()
            return self._cached_keys


def create_api_key(
    name: str,
    permissions: Sequence[Permission],
    quota: int | None,
    window_s: int,
    clock: Callable[[], float] = time.time,
) -> tuple[ApiKey, str]:
    """A new key, and the text that its holder sends.

    The text is `fr_`, 12 hex digits (the id) and 256 random bits. A fast hash (SHA-256) is safe, since that many random
    bits cannot be guessed.
    """
    name_part = f"{KEY_PREFIX}_{secrets.token_hex(6)}"
    secret_text = f"{name_part}_{secrets.token_urlsafe(32)}"
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
    return ApiKey(
        name_part, name, digest(secret_text), frozenset(permissions), quota, window_s, secret, clock()
    ), secret_text


def digest(secret_text: str) -> bytes:
    """SHA-256 of a key's text, as stored."""
    return hashlib.sha256(secret_text.encode("utf-8", "surrogatepass")).digest()
