"""What the service asks of its stores. Owns the protocols; `database` and `blobs` implement them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain import Event, EventKind, Generation


@dataclass(frozen=True, slots=True)
class Line:
    """An event not yet written: the store gives it its number and time."""

    kind: EventKind
    data: Mapping[str, Any]


class Records(Protocol):
    """Generations and their event logs. Every method is one transaction. Raises StoreUnavailable."""

    async def create(self, generation: Generation, lines: Sequence[Line], *, lease_until: float) -> None:
        """Insert a new generation with the first lines of its log."""
        ...

    async def save(self, generation: Generation, lines: Sequence[Line], *, lease_until: float | None) -> bool:
        """Replace the record and append to its log; False, and nothing is written, when it was forgotten meanwhile.

        `lease_until` None ends the lease: the generation is final.
        """
        ...

    async def append(self, generation_id: str, lines: Sequence[Line], *, lease_until: float) -> bool:
        """Append to the log and prolong the lease, leaving the record alone; False when it was forgotten."""
        ...

    async def get(self, generation_id: str) -> Generation | None:
        """The record, or None."""
        ...

    async def events(self, generation_id: str, after: int, limit: int = 500) -> list[Event]:
        """Lines with `seq` > `after`, oldest first."""
        ...

    async def lapsed(self, now: float, limit: int = 100) -> list[Generation]:
        """Generations that are not final and whose lease ended before `now`: their process is gone."""
        ...

    async def expired(self, created_before: float, limit: int = 100) -> list[str]:
        """Ids of final generations older than that."""
        ...

    async def delete(self, generation_id: str) -> bool:
        """Forget the record and its log; False when there was none."""
        ...

    async def ping(self) -> None:
        """Return when the database answers. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class Blobs(Protocol):
    """Files by key (`generations/<id>/...`). Raises StoreUnavailable when the store is out of reach or full."""

    async def put(self, key: str, data: bytes) -> None:
        """Write or overwrite; readers see all of it or nothing."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The bytes, or None."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every key that starts with `prefix`; none is fine."""
        ...
