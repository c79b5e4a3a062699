"""The webhook outbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain import Batch, BatchCounts, Generation, Status, Webhook


@dataclass(frozen=True, slots=True)
class EndedBatch:
    """A batch that has ended, with its entries' states."""

    batch: Batch
    counts: BatchCounts


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """A due webhook: what ended, past attempts and target host."""

    subject: Generation | EndedBatch
    attempts: int
    host: str = ""

    @property
    def id(self) -> str:
        """The id of the generation or batch."""
        return self.subject.id if isinstance(self.subject, Generation) else self.subject.batch.id

    @property
    def owner(self) -> str:
        """The owner of the generation or batch."""
        return self.subject.spec.owner if isinstance(self.subject, Generation) else self.subject.batch.owner

    @property
    def status(self) -> Status | None:
        """The status in which it ended."""
        return self.subject.status if isinstance(self.subject, Generation) else self.subject.batch.status

    @property
    def webhook(self) -> Webhook | None:
        """The requested webhook."""
        return self.subject.webhook if isinstance(self.subject, Generation) else self.subject.batch.webhook

    @property
    def lane(self) -> tuple[str, str]:
        """Owner and host."""
        return self.owner, self.host


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Concurrent deliveries per process: total, per owner, per owner and host."""

    total: int
    per_owner: int
    per_host: int


class WebhookOutbox(Protocol):
    """The webhook outbox, filled by `GenerationStore.create`."""

    async def lease_due(
        self, now: float, lease_s: float, limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]
    ) -> list[PendingDelivery]:
        """Lease due webhooks of ended generations and batches for `lease_s`.

        `in_flight` holds owner and host of each attempt of this process. Owners and hosts with the fewest come first.
        Other processes skip leased webhooks.
        """

    async def reschedule(self, subject_id: str, due: float, attempts: int) -> None:
        """Set when it is due again, and its number of attempts."""

    async def remove(self, subject_id: str) -> None:
        """Remove it, delivered or given up."""

    async def count_pending(self) -> int:
        """Undelivered webhooks of what has ended."""
