"""Limits of the calls to one remote generator: fair turns, pace and budget.

Used on the generator's own event loop. Budgets count for this process and a day of UTC.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from models.daily_count import DailyCount
from models.load_options import RemoteLimits
from models.protocols.narrow import LossReason

MINUTE_S = 60.0

LONGEST_SHARED_PAUSE_S = 60.0
"""Maximum seconds that one answer can keep all calls waiting.

Its own call obeys the whole interval.
"""


class Lost(Exception):
    """The images of a call do not come; the message can be shown to users."""

    def __init__(self, reason: LossReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: LossReason = reason
        self.detail = detail


class Turns:
    """At most `limit` calls at once; orders that wait take turns.

    So a large order cannot hold a small one back.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: OrderedDict[object, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, order: object) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self._acquire(order)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, order: object) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(order, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            order, places = self._waiting.popitem(last=False)
            place = places.popleft()
            if places:
                self._waiting[order] = places
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Pace:
    """Requests per minute, and pauses that the remote asks for."""

    def __init__(self, per_minute: int) -> None:
        self._sent: deque[float] = deque(maxlen=per_minute or 1)
        self._per_minute = per_minute
        self._resume_at = -math.inf

    def pause(self, seconds: float) -> None:
        """Keep all calls waiting, for at most `LONGEST_SHARED_PAUSE_S`."""
        self._resume_at = max(self._resume_at, time.monotonic() + min(seconds, LONGEST_SHARED_PAUSE_S))

    async def wait(self, deadline: float) -> None:
        """Wait until a call may be made, and count it.

        Raises Lost if that is after the deadline.
        """
        while (at := self._next()) > (now := time.monotonic()):
            if at > deadline:
                raise Lost("rate_limited", f"takes no further call for {at - now:.0f} s, which exceeds the deadline")
            await asyncio.sleep(at - now)
        self._sent.append(time.monotonic())

    def _next(self) -> float:
        full = self._per_minute and len(self._sent) == self._per_minute
        return max(self._resume_at, self._sent[0] + MINUTE_S if full else -math.inf)


class Budget:
    """Calls and money of a day."""

    def __init__(self, limits: RemoteLimits, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._calls = DailyCount(clock)
        self._images = DailyCount(clock)

    def spend(self, images: int) -> int:
        """Count a call for this many images; return its day.

        Raises Lost if it exceeds the budget; then nothing is counted.
        """
        limits = self._limits
        if self._calls.after(1) > limits.calls_per_day:
            raise Lost(
                "budget_spent",
                f"has used its {limits.calls_per_day} calls of today; raise FRONTRUNNER_REMOTE_CALLS_PER_DAY",
            )
        most = limits.money_per_day
        if most and round(self._images.after(images) * limits.price, 9) > most:
            raise Lost(
                "budget_spent",
                f"has no room left in its {most:g} of today, at {limits.price:g} an image; "
                "raise FRONTRUNNER_REMOTE_MONEY_PER_DAY",
            )
        self._calls.add(1)
        return self._images.add(images)

    def refund(self, images: int, day: int) -> None:
        """Give back the money of a refused call of that day; it remains a call."""
        self._images.take_back(images, day)
