"""The event log of a generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    """The event kinds of a generation's log. The last three close it.

    `loading` follows `queued` if the model was not loaded in the process that took the request.
    """

    QUEUED = "queued"
    LOADING = "loading"
    STARTED = "started"
    STEP = "step"
    PREVIEW = "preview"
    PRUNED = "pruned"
    CANDIDATE = "candidate"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether this event closes the log."""
        return self in {EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED}


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a log. `seq` grows from 1, with gaps after a loss; `data` is JSON."""

    seq: int
    kind: EventKind
    data: Mapping[str, Any]
    created: float
