"""The webhook outbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain import Generation


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """A due webhook: its generation, past attempts and target host."""

    generation: Generation
    attempts: int
    host: str = ""

    @property
    def lane(self) -> tuple[str, str]:
        """Owner and host."""
        return self.generation.spec.owner, self.host


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
        """Lease due webhooks of ended generations for `lease_s`.

        `in_flight` holds owner and host of each attempt of this process. Owners and hosts with the fewest come first.
        Other processes skip leased webhooks.
        """

    async def reschedule(self, generation_id: str, due: float, attempts: int) -> None:
        """Set when it is due again, and its number of attempts."""

    async def remove(self, generation_id: str) -> None:
        """Remove it, delivered or given up."""

    async def count_pending(self) -> int:
        """Undelivered webhooks of ended generations."""
