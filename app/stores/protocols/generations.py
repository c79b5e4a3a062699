"""Generations, their event logs and the queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain import Event, EventKind, Generation, Progress, Status


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append; without a `seq`, the store assigns number and time.

    Events with a number follow all stored ones; either all of a write have one, or none.
    """

    kind: EventKind
    data: Mapping[str, Any]
    seq: int | None = None
    created: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one generation.

    Each claim has a new `token` and expires `lease_s` after the last write.
    """

    token: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claimed generation, with the number of its claims so far.

    The claim at submit counts; released claims do not. Events of this claim have numbers above `last_seq`.
    """

    generation: Generation
    claims: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a process finds in the row of a generation that it runs.

    `claim` is the token of the current claim. `watched` says whether another replica asked for progress.
    """

    claim: str | None
    watched: bool


@dataclass(frozen=True, slots=True)
class Claimable:
    """A generation that any process may claim, and its number of candidates."""

    generation_id: str
    candidates: int


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A caller's idempotency key, with the fingerprint of its request.

    `replaces` is a generation from which the key may be taken.
    """

    owner: str
    key: str
    fingerprint: str
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class IdempotencyMatch:
    """The generation that holds a key, with the fingerprint of its request."""

    generation_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class QuotaCharge:
    """Candidates to charge to a key's `quota` in one of its numbered windows."""

    key_id: str
    window: int
    candidates: int
    quota: int


@dataclass(frozen=True, slots=True)
class QuotaUsage:
    """Whether the quota covers a charge, and the resulting usage."""

    granted: bool
    used: int


@dataclass(frozen=True, slots=True)
class PageMark:
    """A place in a list, newest first: that of a generation, which may be deleted."""

    created: float
    id: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which generations to list; an empty `statuses` allows all.

    `since` is inclusive, `before` exclusive; both are seconds since the epoch. `jobs` selects those with a `job`.
    """

    owner: str
    statuses: tuple[Status, ...] = ()
    since: float | None = None
    before: float | None = None
    batch: str | None = None
    jobs: bool = False


class QueueFull(Exception):
    """The queue holds the maximum number of unclaimed candidates."""


class GenerationStore(Protocol):
    """Generations and their event logs: the queue."""

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
        """Insert a generation and its first events; unclaimed, any process may run it.

        `charge` is charged to the owner's key in the same transaction. The transaction that ends the generation lowers
        the charge to what was `delivered`, while the window lasts. Nothing is written when another generation holds the
        key (returned) or when the quota does not cover the charge. Raises QueueFull when more than `room` candidates
        would be unclaimed.
        """

    async def save(self, generation: Generation, lines: Sequence[NewEvent], claim: Claim) -> bool:
        """Replace the record, append events, and extend the claim or end it if final.

        Returns False, and writes nothing, if the generation was deleted or the claim was lost.
        """

    async def append(
        self, generation_id: str, lines: Sequence[NewEvent], claim: Claim, progress: Progress | None = None
    ) -> bool:
        """Append events, set the progress if given, and extend the claim.

        Returns False as `save` does.
        """

    async def prolong(self, held: Mapping[str, tuple[Claim, Progress]]) -> set[str]:
        """Extend claims and set the progress, by generation; return those still held."""

    async def look(self, generation_ids: Collection[str], span_s: float) -> dict[str, Held]:
        """Claims of these generations, and whether one was watched within `span_s`."""

    async def record_watch(self, generation_id: str) -> None:
        """Ask the process that runs an open generation to store its progress soon."""

    async def release(self, generation: Generation, claim: Claim, lines: Sequence[NewEvent] = ()) -> bool:
        """Replace the record, append events, and release the claim.

        Returns False as `save` does.
        """

    async def settle(
        self, generation: Generation, lines: Sequence[NewEvent], *, unattended_s: float | None = None
    ) -> bool:
        """End it, regardless of claims; False if deleted or already final.

        The numbers of `lines` are above those that a process which runs it may have shown.
        With `unattended_s`, only if no client has followed it for that many seconds.
        """

    async def record_attendance(self, generation_id: str) -> None:
        """Record that a client follows it, if it is open and `attended`."""

    async def list_unattended(self, span_s: float, limit: int = 100) -> list[str]:
        """Ids of open `attended` generations that no client has followed for `span_s`.

        The period starts at `create`.
        """

    async def next_claimable(
        self, model: str, scorer: str | None, max_candidates: int, lease_s: float, weights: str | None = None
    ) -> Claimable | None:
        """The oldest claimable generation of at most `max_candidates` candidates.

        `scorer` None is any. `lease_s` applies to claims stored without a lease. `weights` is the generator's revision:
        what was made for others is left to a replica that published them within `lease_s`; None takes it.
        """

    async def waiting_models(self, lease_s: float) -> frozenset[str]:
        """Models of claimable generations, entries of batches included."""

    async def claim(
        self,
        model: str,
        scorer: str | None,
        room: int,
        claim: Claim,
        *,
        max_candidates: int | None = None,
        weights: str | None = None,
    ) -> Claimed | None:
        """Claim the oldest open generation for these models that is unclaimed or expired.

        Returns None if there is none, or if it has more than `room` candidates. Generations with more than
        `max_candidates` are skipped. For `weights` see `next_claimable`.
        """

    async def find_idempotent(self, owner: str, key: str) -> IdempotencyMatch | None:
        """The generation that holds this owner's key."""

    async def quota_used(self, key_id: str, window: int) -> int:
        """Candidates charged to a key in one of its windows."""

    async def get(self, generation_id: str) -> Generation | None:
        """The record, or None."""

    async def find(self, query: ListQuery, after: PageMark | None, limit: int) -> list[Generation]:
        """The generations older than `after`, newest first."""

    async def existing_ids(self, generation_ids: Collection[str]) -> set[str]:
        """The given ids that have a record."""

    async def database_id(self) -> str:
        """The database's permanent unique id."""

    async def events(self, generation_id: str, after: int, limit: int = 500) -> list[Event]:
        """Events with `seq` > `after`, oldest first."""

    async def list_expired(self, created_before: float, limit: int = 100) -> list[str]:
        """Ids of final generations created before then."""

    async def list_abandoned(self, created_before: float, limit: int = 100) -> list[str]:
        """Ids of unclaimed open generations created before then."""

    async def delete(self, generation_id: str) -> bool:
        """Delete the record, its log and its key; False if there is none.

        An open generation's charge is refunded.
        """

    @property
    def notifies(self) -> bool:
        """Whether `listen` currently hears of ends and of the queue; if not, poll."""

    async def listen(self, notify: Callable[[str], None]) -> None:
        """Call `notify` with ids of ended generations, or "" when one is claimable.

        Runs until cancelled and reconnects. Returns at once if the database sends no notifications.
        """

    def clock(self) -> float:
        """Seconds since the epoch by the shared clock, as of the last `now`."""

    async def now(self) -> float:
        """Query the database's time in seconds since the epoch, and set `clock` by it."""

    async def ping(self) -> None:
        """Return if the database answers, and accepts writes if one failed recently."""

    async def close(self) -> None:
        """Close the connections."""
