"""Protocols of the stores. SQL modules of this package implement them, `blobs` the image store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from app.domain import Event, EventKind, Generation, TasteProfile, Vote


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event not yet written: the store gives it its number and time."""

    kind: EventKind
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one generation. `token` is new with each claim; it lapses `lease_s` after the last write."""

    token: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A generation that was claimed for the `claims`-th time, from 1 at its submit; claims given back do not count."""

    generation: Generation
    claims: int


@dataclass(frozen=True, slots=True)
class Claimable:
    """A generation that any process may claim, and how many candidates it has."""

    generation_id: str
    candidates: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A caller's idempotency key, and the fingerprint of the request that came with it."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class IdempotencyMatch:
    """The generation that took a key first, and the fingerprint of its request."""

    generation_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class QuotaCharge:
    """Candidates to count against the `quota` of a key in one of its windows, which are numbered."""

    key_id: str
    window: int
    candidates: int
    quota: int


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """Whether a bill was within the quota, and what is used of it now."""

    granted: bool
    used: int


class QueueFull(Exception):
    """As many candidates wait to be claimed as may."""


class GenerationStore(Protocol):
    """Generations and their event logs: the queue. Every method is one transaction. Raises StoreUnavailable."""

    async def create(
        self,
        generation: Generation,
        lines: Sequence[NewEvent],
        claim: Claim | None,
        key: KeyRecord | None = None,
        *,
        charge: QuotaCharge | None = None,
        room: int | None = None,
    ) -> IdempotencyMatch | QuotaUsage | None:
        """Insert a new generation with the first lines of its log; without a claim any process may take it.

        With a bill, which is of the generation's owner, its candidates are charged in the same transaction. The
        transaction that makes the generation final charges it for what it has `delivered` instead, as long as the
        window lasts. Nothing is written or charged when an earlier generation has the key, which is then returned, or
        when the bill is not granted. Raises QueueFull when more than `room` candidates would then be waiting for a
        claim.
        """
        ...

    async def save(self, generation: Generation, lines: Sequence[NewEvent], claim: Claim) -> bool:
        """Replace the record, append to its log and prolong the claim, or end it when the generation is final.

        False, and nothing is written, when it was forgotten or is no longer claimed by that token.
        """
        ...

    async def append(self, generation_id: str, lines: Sequence[NewEvent], claim: Claim) -> bool:
        """Append to the log and prolong the claim, leaving the record alone; False as for `save`."""
        ...

    async def release(self, generation: Generation, claim: Claim) -> bool:
        """Replace the record and give the claim back: any process may have it now; False as for `save`."""
        ...

    async def settle(
        self, generation: Generation, lines: Sequence[NewEvent], *, unattended_s: float | None = None
    ) -> bool:
        """Make it final whoever has claimed it; False when it was forgotten or is final already.

        With `unattended_s` only if no client has followed it for so long.
        """
        ...

    async def attend(self, generation_id: str) -> None:
        """Note that a client follows an open generation that is `attended`; of others nothing is noted."""
        ...

    async def unattended(self, span_s: float, limit: int = 100) -> list[str]:
        """Ids of open `attended` generations that no client has followed for `span_s`, at first since `create`."""
        ...

    async def next_claimable(self, model: str, scorer: str, max_candidates: int, lease_s: float) -> Claimable | None:
        """The oldest of at most `max_candidates` candidates that `claim` could give.

        `lease_s` is the length of claims that do not tell their own.
        """
        ...

    async def claim(
        self, model: str, scorer: str, room: int, claim: Claim, *, max_candidates: int | None = None
    ) -> Claimed | None:
        """Claim the oldest open generation for these models that nobody has, or whose claim has lapsed.

        None when there is none, or when it has more than `room` candidates. Those of more than `max_candidates` are
        passed over.
        """
        ...

    async def find_idempotent(self, owner: str, key: str) -> IdempotencyMatch | None:
        """The generation that has this owner's key."""
        ...

    async def used(self, key_id: str, window: int) -> int:
        """Candidates that a key is charged for in one of its windows."""
        ...

    async def get(self, generation_id: str) -> Generation | None:
        """The record, or None."""
        ...

    async def known(self, generation_ids: Collection[str]) -> set[str]:
        """Those of them that have a record."""
        ...

    async def identity(self) -> str:
        """What tells this database from others, for as long as it lives."""
        ...

    async def events(self, generation_id: str, after: int, limit: int = 500) -> list[Event]:
        """Lines with `seq` > `after`, oldest first."""
        ...

    async def expired(self, created_before: float, limit: int = 100) -> list[str]:
        """Ids of final generations older than that."""
        ...

    async def abandoned(self, created_before: float, limit: int = 100) -> list[str]:
        """Ids of open generations older than that which nobody works on."""
        ...

    async def delete(self, generation_id: str) -> bool:
        """Forget the record, its log and its key; False when there was none. An open one is charged for nothing."""
        ...

    @property
    def notifies(self) -> bool:
        """Whether `listen` hears of every write at this moment; else look again and again."""
        ...

    async def listen(self, notify: Callable[[str], None]) -> None:
        """Call `notify` with the id of each generation that any process writes, "" when something may be claimed.

        Runs until cancelled, through lost connections; returns at once when the database tells nothing.
        """
        ...

    def clock(self) -> float:
        """Seconds since the epoch by the clock that all replicas share, as far as it is known since the last `now`."""
        ...

    async def now(self) -> float:
        """Seconds since the epoch, asked of the database; `clock` goes by the answer from now on."""
        ...

    async def ping(self) -> None:
        """Return when the database answers, and takes writes if one has failed lately. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class ProfileCaps:
    """What one owner may store: profiles, and the bytes of their vectors together."""

    profiles: int = 100
    size: int = 64 * 2**20


@dataclass
class OverCap(Exception):
    """What is to be written would make `stored` of what `caps` allow."""

    stored: ProfileCaps
    caps: ProfileCaps


class VoteStore(Protocol):
    """Profiles of taste, by owner and name. Every method is one transaction. Raises StoreUnavailable.

    What would take an owner over the store's `ProfileCaps` raises OverCap, and nothing is written. Replicas never pass
    them together.
    """

    async def list_profiles(self, owner: str) -> list[str]:
        """The owner's profiles, sorted."""
        ...

    async def version(self, owner: str, profile: str) -> str | None:
        """Another text whenever the profile has changed; None when there is none."""
        ...

    async def read(self, owner: str, profile: str) -> TasteProfile | None:
        """The profile with its votes in the order they were cast."""
        ...

    async def add(
        self,
        owner: str,
        profile: str,
        contents: TasteProfile,
        new: Sequence[Vote],
        removed: Sequence[Vote],
        *,
        known: TasteProfile | None,
    ) -> bool:
        """Write the head of `contents`, add the `new` votes and forget those that are `removed`.

        False, and nothing written, when the profile is no longer as it was `known`.
        """
        ...

    async def replace(self, owner: str, profile: str, contents: TasteProfile) -> None:
        """Write `contents` in place of what is there."""
        ...

    async def delete(self, owner: str, profile: str) -> bool:
        """Forget it; False when there was none."""
        ...


class Permission(StrEnum):
    """What a key allows. `ADMIN` is all of it, on everybody's generations."""

    GENERATE = "generate"
    RANK = "rank"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's key without its secret part: `digest` is that one's SHA-256.

    `quota` candidates may be asked for in every window of `window_s` seconds, None is no limit. `secret` signs its
    webhooks (`whsec_` and base64). `revoked` is when it ceased to be good.
    """

    id: str
    name: str
    digest: bytes = field(repr=False)
    permissions: frozenset[Permission]
    quota: int | None
    window_s: int
    secret: str = field(repr=False)
    created: float
    revoked: float | None = None


class ApiKeyStore(Protocol):
    """API keys. Every method is one transaction. Raises StoreUnavailable."""

    async def list_keys(self) -> list[ApiKey]:
        """All of them, oldest first, revoked ones too."""
        ...

    async def add(self, key: ApiKey) -> None:
        """Keep a new one."""
        ...

    async def revoke(self, key_id: str, now: float) -> bool:
        """From now on it is refused; False when there is none that is good."""
        ...


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """A webhook whose time has come: its generation, the attempts that were made, and the host that it goes to."""

    generation: Generation
    attempts: int
    host: str = ""

    @property
    def lane(self) -> tuple[str, str]:
        """Owner and host."""
        return self.generation.spec.owner, self.host


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many attempts one process makes at once: in all, for one owner, and for one owner to one host."""

    in_all: int
    of_owner: int
    to_host: int


class WebhookOutbox(Protocol):
    """The outbox of webhooks. `GenerationStore.create` puts in what a generation asks for. Raises StoreUnavailable."""

    async def lease_due(
        self, now: float, lease_s: float, limits: Attempts, under_way: Sequence[tuple[str, str]]
    ) -> list[PendingDelivery]:
        """Webhooks of ended generations that are due; no other process gets them for `lease_s`.

        `under_way` holds owner and host of each attempt of this process. Owners and hosts with the fewest come first.
        """
        ...

    async def reschedule(self, generation_id: str, due: float, attempts: int) -> None:
        """It is due again then, after that many attempts."""
        ...

    async def remove(self, generation_id: str) -> None:
        """It was delivered, or never will be."""
        ...

    async def count_pending(self) -> int:
        """Webhooks of ended generations that are not yet delivered."""
        ...


class BlobStore(Protocol):
    """Files by key (`generations/<id>/...`). Raises StoreUnavailable when the store is out of reach or full."""

    async def put(self, key: str, data: bytes) -> None:
        """Write or overwrite; readers see all of it or nothing."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The bytes, or None."""
        ...

    async def ping(self) -> None:
        """Return at once, or when files can be written if that has failed lately. Raises StoreUnavailable."""
        ...

    async def folders(self, folder: str) -> list[str]:
        """Names of the folders right inside `folder`, which ends with `/`; some stores name empty ones too."""
        ...

    async def delete_prefix(self, prefix: str) -> int:
        """Delete every key that starts with `prefix`, how many there were. What killed writers left there goes too."""
        ...

    async def delete_unfinished(self, folder: str) -> None:
        """Delete what writers that were killed have left of unfinished files in `folder`, which ends with `/`."""
        ...
