"""Who is calling: the API key of the request that is being served, and what it may do, see and still ask for.

The caller is a context variable, set once before a request reaches its route, so that no use case can forget to ask.
Work that no request has asked for has no caller and is bound by nothing; nor is anybody as long as there is no key.
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
"""How long a replica goes by the keys it has read: so long a revoked one may still be taken."""

KEY_PREFIX = "fr"
"""What every key begins with, so that scanners for leaked secrets can know it."""

_ID_CHARS = len(KEY_PREFIX) + 13


class Caller:
    """One request's key. `quota_remaining` is what is left of its quota, once it was charged: (left, seconds to the
    next).
    """

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self.key = key
        self.quota_remaining: tuple[int, int] | None = None
        self._clock = clock
        self._open = 0

    def has_permission(self, permission: Permission) -> bool:
        """Whether the key has this right."""
        return bool({permission, Permission.ADMIN} & self.key.permissions)

    def quota_charge(self, candidates: int, pointer: str | None) -> QuotaCharge | None:
        """What is to be counted; None without a quota. Raises InvalidRequest at `pointer` for more than all of it."""
        quota = self.key.quota
        if quota is None:
            return None
        if candidates > quota:
            raise InvalidRequest(f"this key may ask for {quota} candidates at most", pointer=pointer)
        return QuotaCharge(self.key.id, self.window, candidates, quota)

    @property
    def window(self) -> int:
        """The number of the key's present window."""
        return int(self._clock() // self.key.window_s)

    def record_usage(self, charge: QuotaCharge, usage: QuotaUsage) -> None:
        """Note what is left of the quota. Raises QuotaExceeded when the bill was not granted."""
        remaining, reset_s = charge.quota - usage.used, (charge.window + 1) * self.key.window_s - self._clock()
        self.quota_remaining = max(0, remaining), max(1, round(reset_s))
        if not usage.granted:
            raise QuotaExceeded(
                f"this key may ask for {charge.quota} candidates in {self.key.window_s} s and has {remaining} left",
                left=self.quota_remaining[0],
                retry_after_s=self.quota_remaining[1],
            )
        self._open = charge.candidates

    def settled(self, delivered: int) -> None:
        """Note that what was charged has ended, and with how many candidates: the rest was given back."""
        if self.quota_remaining is not None:
            self.quota_remaining = self.quota_remaining[0] + max(0, self._open - delivered), self.quota_remaining[1]
        self._open = 0


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Who is calling; None when nobody needs a key, and for work that no request has asked for."""
    return _caller.get()


def current_owner() -> str:
    """Whose the things are that are made now: the key's id, "" without one."""
    caller = current_caller()
    return caller.key.id if caller is not None else ""


def quota_charge(candidates: int, pointer: str | None = None) -> QuotaCharge | None:
    """What is to be counted against the caller's quota; None without one. Raises InvalidRequest for more than all of
    it.
    """
    caller = current_caller()
    return caller.quota_charge(candidates, pointer) if caller is not None else None


def record_usage(charge: QuotaCharge | None, created: IdempotencyMatch | QuotaUsage | None) -> None:
    """Note what the store counted for a bill. Raises QuotaExceeded when it was not granted."""
    caller = current_caller()
    if caller is not None and charge is not None and isinstance(created, QuotaUsage):
        caller.record_usage(charge, created)


def settled(delivered: int) -> None:
    """Note that the generation which this request was charged for has ended with so many candidates."""
    caller = current_caller()
    if caller is not None:
        caller.settled(delivered)


def quota() -> int | None:
    """Candidates that the caller may ask for in a window; None for no limit."""
    caller = current_caller()
    return caller.key.quota if caller is not None else None


async def left(used: Callable[[str, int], Awaitable[int]]) -> int | None:
    """Candidates left to the caller in this window; None for no limit. `used` as in `GenerationStore`."""
    caller = current_caller()
    if caller is None or caller.key.quota is None:
        return None
    return max(0, caller.key.quota - await used(caller.key.id, caller.window))


def can_view(owner: str) -> bool:
    """Whether the caller may know of things of this owner."""
    caller = current_caller()
    return caller is None or owner == caller.key.id or caller.has_permission(Permission.ADMIN)


@contextmanager
def as_caller(caller: Caller | None) -> Iterator[None]:
    """Whatever happens in this block is done for the caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class ApiKeyAuthenticator:
    """The keys of the database, read again when they are `KEY_CACHE_TTL_S` old. `clock` is `GenerationStore.clock`."""

    def __init__(self, store: ApiKeyStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._cached_keys: dict[str, ApiKey] = {}
        self._read_at: float | None = None
        self._failed_at = 0.0
        self._read_lock = Lock()

    async def authenticate(self, presented: str | None, permission: Permission) -> Caller | None:
        """Whose key was presented; None when there has never been a key and nobody needs one.

        Raises Unauthorized, Forbidden without the right, and StoreUnavailable.
        """
        keys = await self._keys()
        if not keys:
            return None
        if not presented:
            raise Unauthorized("send a key: 'Authorization: Bearer ...' or 'X-API-Key: ...'")
        key = keys.get(presented[:_ID_CHARS])
        # Without such a key the comparison is made all the same, so that its time tells nothing.
        matches = hmac.compare_digest(digest(presented), key.digest if key is not None else bytes(32))
        if key is None or not matches or key.revoked is not None:
            raise Unauthorized("there is no such key, or it was revoked")
        caller = Caller(key, self._clock)
        if not caller.has_permission(permission):
            raise Forbidden(f"this key has no right to {permission}")
        return caller

    async def _keys(self) -> dict[str, ApiKey]:
        """The keys as they were lately. Those who wait for one reading share its failure."""
        asked = time.monotonic()
        async with self._read_lock:
            if self._failed_at > asked:
                raise StoreUnavailable("the keys could not be read")
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
    """A key, and the text that its holder sends: `fr_`, 12 digits that name it, and 256 random bits.

    A guess at that many bits needs no slow hash to be kept from success; SHA-256 keeps each request quick.
    """
    name_part = f"{KEY_PREFIX}_{secrets.token_hex(6)}"
    secret_text = f"{name_part}_{secrets.token_urlsafe(32)}"
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
    return ApiKey(
        name_part, name, digest(secret_text), frozenset(permissions), quota, window_s, secret, clock()
    ), secret_text


def digest(secret_text: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(secret_text.encode("utf-8", "surrogatepass")).digest()
