"""Batches of generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.domain import Batch, BatchCounts, BatchEntry, Generation
from app.stores.protocols.generations import (
    Claim,
    Claimable,
    Claimed,
    IdempotencyMatch,
    KeyRecord,
    NewEvent,
    PageMark,
    QuotaCharge,
    QuotaUsage,
)


class BatchStore(Protocol):
    """Batches; their entries are generations outside the queue of requests."""

    async def create(
        self,
        batch: Batch,
        entries: Sequence[tuple[Generation, Sequence[NewEvent]]],
        key: KeyRecord | None,
        charge: QuotaCharge | None,
    ) -> IdempotencyMatch | QuotaUsage | None:
        """Insert a batch with its entries, each with its first events.

        All of `charge` is charged at once, and each entry's share is settled when it ends. Nothing is written when a
        generation holds the key (returned), or when the quota does not cover the charge.
        """

    async def get(self, batch_id: str) -> tuple[Batch, BatchCounts] | None:
        """The batch with its entries' states, or None."""

    async def of_generation(self, generation_id: str) -> str | None:
        """The id of the batch to which a generation belongs."""

    async def entries(self, batch_id: str) -> list[BatchEntry]:
        """The entries that are generations, by index."""

    async def find(self, owner: str, after: PageMark | None, limit: int) -> list[tuple[Batch, BatchCounts]]:
        """The owner's batches older than `after`, newest first."""

    async def next_entry(
        self, model: str, scorer: str | None, room: int, lease_s: float, weights: str | None = None
    ) -> Claimable | None:
        """A claimable entry of at most `room` candidates; `scorer` None is any.

        Owners take turns, then their batches; entries come in order. For `weights` see `next_claimable`.
        """

    async def claim(self, generation_id: str, claim: Claim) -> Claimed | None:
        """Claim an entry; None if it is no longer claimable."""

    async def mark_cancelled(self, batch_id: str) -> None:
        """Record that the batch is cancelled, unless it has ended."""

    async def unclaimed(self, batch_id: str, limit: int = 500) -> list[Generation]:
        """Open entries that no process has claimed."""

    async def settle(self, ended: Sequence[Generation], lines: Sequence[NewEvent]) -> None:
        """End those entries that are still unclaimed, each with the events `lines`."""

    async def delete(self, batch_id: str) -> None:
        """Delete the batch and all its entries."""

    async def list_expired(self, finished_before: float, limit: int = 20) -> list[str]:
        """Ids of batches that ended before then."""
