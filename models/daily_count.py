"""Counts of a day, for the budgets of remote generators and scorers."""

from __future__ import annotations

import time
from collections.abc import Callable

_DAY_S = 86_400


class DailyCount:
    """A count of this process that begins again with each day of UTC.

    `clock` gives seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._day = 0
        self._count = 0

    def after(self, more: int) -> int:
        """What the count of today would be with so many more."""
        self._begin_day()
        return self._count + more

    def add(self, more: int) -> int:
        """Count so many today; return the day, in days since 1970."""
        self._count = self.after(more)
        return self._day

    def take_back(self, number: int, day: int) -> None:
        """Count so many less, if it is still that day."""
        self._begin_day()
        if day == self._day:
            self._count -= number

    def _begin_day(self) -> None:
        today = int(self._clock() // _DAY_S)
        if today != self._day:
            self._day, self._count = today, 0
