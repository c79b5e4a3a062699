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

from app.errors import Forbidden, Invalid, QuotaExceeded, StoreUnavailable, Unauthorized
from app.stores.protocols import ApiKey, Bill, Earlier, Keys, Right, Spent

FRESH_S = 2.0
"""How long a replica goes by the keys it has read: so long a revoked one may still be taken."""

MARK = "fr"
"""What every key begins with, so that scanners for leaked secrets can know it."""

_ID_CHARS = len(MARK) + 13


class Caller:
    """One request's key. `standing` is what is left of its quota, once it was charged: (left, seconds to the next)."""

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self.key = key
        self.standing: tuple[int, int] | None = None
        self._clock = clock
        self._open = 0

    def may(self, right: Right) -> bool:
        """Whether the key has this right."""
        return bool({right, Right.ADMIN} & self.key.rights)

    def bill(self, candidates: int, pointer: str | None) -> Bill | None:
        """What is to be counted; None without a quota. Raises Invalid at `pointer` for more than all of it."""
        quota = self.key.quota
        if quota is None:
            return None
        if candidates > quota:
            raise Invalid(f"this key may ask for {quota} candidates at most", pointer=pointer)
        return Bill(self.key.id, self.window, candidates, quota)

    @property
    def window(self) -> int:
        """The number of the key's present window."""
        return int(self._clock() // self.key.window_s)

    def charged(self, bill: Bill, spent: Spent) -> None:
        """Note what is left of the quota. Raises QuotaExceeded when the bill was not granted."""
        left, pause = bill.quota - spent.used, (bill.window + 1) * self.key.window_s - self._clock()
        self.standing = max(0, left), max(1, round(pause))
        if not spent.granted:
            raise QuotaExceeded(
                f"this key may ask for {bill.quota} candidates in {self.key.window_s} s and has {left} left",
                left=self.standing[0],
                retry_after_s=self.standing[1],
            )
        self._open = bill.candidates

    def settled(self, delivered: int) -> None:
        """Note that what was charged has ended, and with how many candidates: the rest was given back."""
        if self.standing is not None:
            self.standing = self.standing[0] + max(0, self._open - delivered), self.standing[1]
        self._open = 0


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current() -> Caller | None:
    """Who is calling; None when nobody needs a key, and for work that no request has asked for."""
    return _caller.get()


def owner() -> str:
    """Whose the things are that are made now: the key's id, "" without one."""
    caller = current()
    return caller.key.id if caller is not None else ""


def bill(candidates: int, pointer: str | None = None) -> Bill | None:
    """What is to be counted against the caller's quota; None without one. Raises Invalid for more than all of it."""
    caller = current()
    return caller.bill(candidates, pointer) if caller is not None else None


def charged(bill: Bill | None, entered: Earlier | Spent | None) -> None:
    """Note what the store counted for a bill. Raises QuotaExceeded when it was not granted."""
    caller = current()
    if caller is not None and bill is not None and isinstance(entered, Spent):
        caller.charged(bill, entered)


def settled(delivered: int) -> None:
    """Note that the generation which this request was charged for has ended with so many candidates."""
    caller = current()
    if caller is not None:
        caller.settled(delivered)


def quota() -> int | None:
    """Candidates that the caller may ask for in a window; None for no limit."""
    caller = current()
    return caller.key.quota if caller is not None else None


async def left(used: Callable[[str, int], Awaitable[int]]) -> int | None:
    """Candidates that the caller may still ask for in this window; None for no limit. `used` as in `Records`."""
    caller = current()
    if caller is None or caller.key.quota is None:
        return None
    return max(0, caller.key.quota - await used(caller.key.id, caller.window))


def may_see(owner: str) -> bool:
    """Whether the caller may know of things of this owner."""
    caller = current()
    return caller is None or owner == caller.key.id or caller.may(Right.ADMIN)


@contextmanager
def acting(caller: Caller | None) -> Iterator[None]:
    """Whatever happens in this block is done for the caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class Keyring:
    """The keys of the database, read again when they are `FRESH_S` old. `clock` is `Records.clock`."""

    def __init__(self, store: Keys, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, ApiKey] = {}
        self._read: float | None = None
        self._failed = 0.0
        self._reading = Lock()

    async def caller(self, presented: str | None, right: Right) -> Caller | None:
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
        good = hmac.compare_digest(digest(presented), key.digest if key is not None else bytes(32))
        if key is None or not good or key.revoked is not None:
            raise Unauthorized("there is no such key, or it was revoked")
        caller = Caller(key, self._clock)
        if not caller.may(right):
            raise Forbidden(f"this key has no right to {right}")
        return caller

    async def _keys(self) -> dict[str, ApiKey]:
        """The keys as they were lately. Those who wait for one reading share its failure."""
        asked = time.monotonic()
        async with self._reading:
            if self._failed > asked:
                raise StoreUnavailable("the keys could not be read")
            if self._read is None or time.monotonic() - self._read > FRESH_S:
                try:
                    self._known = {key.id: key for key in await self._store.keys()}
                except StoreUnavailable:
                    self._failed = time.monotonic()
                    raise
                self._read = time.monotonic()
            return self._known


def new_key(
    name: str, rights: Sequence[Right], quota: int | None, window_s: int, clock: Callable[[], float] = time.time
) -> tuple[ApiKey, str]:
    """A key, and the text that its holder sends: `fr_`, 12 digits that name it, and 256 random bits.

    A guess at that many bits needs no slow hash to be kept from success; SHA-256 keeps each request quick.
    """
    name_part = f"{MARK}_{secrets.token_hex(6)}"
    told = f"{name_part}_{secrets.token_urlsafe(32)}"
    secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode("ascii")
    return ApiKey(name_part, name, digest(told), frozenset(rights), quota, window_s, secret, clock()), told


def digest(told: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()
