"""The newest events of a generation, in memory of the process that runs it.

They are shown at once and stored later. The process numbers them, since only the holder of the claim writes the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter

from app.domain import Event
from app.stores.protocols import NewEvent

EVENT_BYTES = 200
"""What an event without an image takes, roughly."""


class LiveLog:
    """Events after number `stored`. `clock` is the store's."""

    def __init__(self, stored: int, clock: Callable[[], float]) -> None:
        self.stored = stored
        self._last = stored
        self._clock = clock
        self._events: list[Event] = []
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """About how much memory the events take."""
        return self._bytes

    @property
    def is_stored(self) -> bool:
        """Whether the store has every event."""
        return not self._events

    def covers(self, after: int) -> bool:
        """Whether all events after `after` are here."""
        return after >= self.stored

    def after(self, seq: int) -> list[Event]:
        """The events here with greater numbers."""
        return self._events[bisect_right(self._events, seq, key=attrgetter("seq")) :]

    def number(self, lines: Sequence[NewEvent]) -> list[NewEvent]:
        """Number the next events; they are not shown before `show`."""
        now, first = self._clock(), self._last + 1
        self._last += len(lines)
        return [replace(line, seq=seq, created=now) for seq, line in enumerate(lines, first)]

    def show(self, numbered: Sequence[NewEvent]) -> None:
        """Show events to the followers of this process."""
        for line in numbered:
            assert line.seq is not None
            assert line.created is not None
            self._events.append(Event(line.seq, line.kind, line.data, line.created))
            self._bytes += EVENT_BYTES + len(line.data.get("image") or "")

    def unstored(self) -> list[NewEvent]:
        """The events here, to be stored."""
        return [NewEvent(event.kind, event.data, event.seq, event.created) for event in self._events]

    def mark_stored(self, lines: Sequence[NewEvent]) -> None:
        """Leave these to the store."""
        if not lines or lines[-1].seq is None:
            return
        self.stored = lines[-1].seq
        self._events = self.after(self.stored)
        self._bytes = sum(EVENT_BYTES + len(event.data.get("image") or "") for event in self._events)

    def continue_after(self, seq: int) -> None:
        """Number further events above `seq`: those of a new claim."""
        self._last = max(self._last, seq)
