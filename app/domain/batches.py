"""Batches: many generations submitted by one request."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.generation import Status, Webhook

BATCH_PREFIX = "batch_"
"""Every batch's id begins with it."""


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """An entry that was skipped: its index, and its error's code, text and pointer."""

    index: int
    code: str
    detail: str
    pointer: str | None = None


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Entries by state. `deleted` ones were deleted as generations."""

    total: int
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    deleted: int = 0

    @property
    def ended(self) -> int:
        """Entries that are neither queued nor running."""
        return self.total - self.queued - self.running

    def status(self, *, cancelled: bool) -> Status:
        """The batch's status, derived from its entries."""
        if not self.queued and not self.running:
            return self.final_status(cancelled=cancelled)
        started = self.running or self.ended > self.refused
        return Status.RUNNING if started else Status.QUEUED

    def final_status(self, *, cancelled: bool) -> Status:
        """The status once every entry has ended: failed if none succeeded."""
        if cancelled:
            return Status.CANCELLED
        return Status.SUCCEEDED if self.succeeded else Status.FAILED


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch without its entries, which are generations.

    `entries` counts all of them, with the refused ones. `status` is stored when the batch ends; until then it is None.
    Times are seconds since the epoch.
    """

    id: str
    owner: str
    created: float
    entries: int
    refused: tuple[RefusedEntry, ...] = ()
    webhook: Webhook | None = None
    cancelled: float | None = None
    finished: float | None = None
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """An entry that is a generation: its index in the batch, id, status and progress."""

    index: int
    generation_id: str
    status: Status
    progress: float
