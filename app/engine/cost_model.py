"""Cost model: seconds of device calls, measured at start-up and while serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import TypeAlias

MOVED = 1.1
"""Minimum factor of a change; smaller ones keep the pruning plan."""

STEERING_COST = 5.0
"""Assumed seconds of a steering call, relative to a finishing one.

It is replaced by measurements. A call runs decoder and scorer forwards and backwards, the scorer twice.
"""

TYPICAL_ROWS = 8
"""Rows of the calls that `steering_factor` compares."""

UNTRIED = 0.95
"""Assumed relative cost per row of an untimed larger call, to try it once."""

CostTable: TypeAlias = tuple[tuple[int, float], ...]
"""(rows, seconds of one call) pairs, ascending."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Measured seconds of a denoiser, preview, finish and steering call by rows.

    `steer` is empty until steering calls were made.
    """

    step: CostTable
    preview: CostTable
    finish: CostTable
    steer: CostTable = ()

    @classmethod
    def from_measurements(
        cls,
        step: Mapping[int, float],
        preview: Mapping[int, float],
        finish: Mapping[int, float],
        steer: Mapping[int, float] | None = None,
    ) -> CostModel:
        """Build costs from seconds by rows of a call."""
        return cls(*(tuple(sorted(some.items())) for some in (step, preview, finish, steer or {})))

    def steps(self, rows: int) -> float:
        """Return seconds of one step of `rows` rows, batched as the scheduler does."""
        return _call_seconds(self.step, rows)

    def previews(self, rows: int) -> float:
        """Return seconds of decoding and scoring previews of `rows` rows."""
        return _call_seconds(self.preview, rows)

    def finishes(self, rows: int) -> float:
        """Return seconds of decoding and scoring `rows` rows in full."""
        return _call_seconds(self.finish, rows)

    def steers(self, rows: int) -> float:
        """Return seconds of steering `rows` rows once; until measured, an assumption."""
        return _call_seconds(self.steer, rows) if self.steer else STEERING_COST * self.finishes(rows)

    def steering_factor(self, calls: int, steered: int) -> float:
        """Return the cost of steered rows relative to unsteered ones.

        The rows make `calls` denoiser calls and are steered `steered` times.
        """
        if not steered:
            return 1.0
        plain = calls * self.steps(TYPICAL_ROWS) + self.finishes(TYPICAL_ROWS)
        return 1.0 + steered * self.steers(TYPICAL_ROWS) / plain if plain > 0 else 1.0

    def moved(self, before: CostModel) -> bool:
        """Whether a new size is known, or a cost has changed, since `before`."""
        pairs = (
            (self.step, before.step),
            (self.preview, before.preview),
            (self.finish, before.finish),
            (self.steer, before.steer),
        )
        return any(_moved(dict(now), dict(then)) for now, then in pairs)

    def scaled(self, factor: float) -> CostModel:
        """Return costs with step seconds times `factor`.

        A guided row counts as two unguided ones.
        """
        return replace(self, step=tuple((bucket, seconds * factor) for bucket, seconds in self.step))


class CallSeconds:
    """Seconds of one kind of device call by rows, at the default size.

    The fastest call of each size counts, because other work on the machine only slows calls down. The first call of a
    size may include one-time compilation, so a size is known from its second call on.
    """

    def __init__(self, known: Mapping[int, float]) -> None:
        self._quickest = dict(known)
        self._known = set(known)
        self._estimates = dict[int, float]()

    @property
    def known(self) -> dict[int, float]:
        """Seconds by rows of the known sizes, ascending."""
        return {rows: self._quickest[rows] for rows in sorted(self._known)}

    def note(self, rows: int, seconds: float) -> bool:
        """Record a call of `rows` rows; return whether that changed what is known."""
        quickest = self._quickest.get(rows)
        if quickest is None or seconds < quickest:
            self._quickest[rows] = seconds
        if quickest is None or (rows in self._known and seconds >= quickest):
            return False
        self.settle(rows)
        return True

    def settle(self, rows: int) -> None:
        """Accept the single call of a size as known."""
        self._known.add(rows)
        self._estimates.clear()

    def estimate(self, rows: int) -> float:
        """Return seconds of a call of any size, interpolated between the known sizes.

        Beyond them the last two are extrapolated. The result is at most the time of a known larger call, so that
        one-time compilation of a single call does not persist.
        """
        if rows not in self._estimates:
            self._estimates[rows] = self._interpolated(rows)
        return self._estimates[rows]

    def _interpolated(self, rows: int) -> float:
        known = list(self.known.items())
        larger = min((seconds for size, seconds in known if size >= rows), default=inf)
        if rows in self._known:
            return larger
        if len(known) == 1:
            (only, seconds), *_ = known
            return min(larger, seconds * rows / only * UNTRIED)
        place = min(max(1, sum(size < rows for size, _ in known)), len(known) - 1)
        (few, least), (many, most) = known[place - 1 : place + 1]
        line = most + max(0.0, most - least) / (many - few) * (rows - many)
        return max(0.0, min(line, larger, most * max(1.0, rows / many)))

    def within(self, seconds: float, most: int) -> int:
        """Return the maximum rows, 1 to `most`, of a call expected within `seconds`."""
        return max((rows for rows in range(1, most + 1) if self.estimate(rows) <= seconds), default=1)


def at_most(seconds: Mapping[int, float], bound: Mapping[int, float]) -> dict[int, float]:
    """Return seconds of calls by rows, none above its bound.

    Sizes that only the bound knows cost as much as it.

    Previews that were timed one by one would else look too dear to be made, and never be timed together.
    """
    return {**bound, **{rows: min(cost, bound.get(rows, cost)) for rows, cost in seconds.items()}}


def _moved(now: Mapping[int, float], then: Mapping[int, float]) -> bool:
    if now.keys() != then.keys():
        return True
    return any(max(now[rows], then[rows]) > MOVED * min(now[rows], then[rows]) for rows in now)


@lru_cache(4096)
def _call_seconds(table: CostTable, rows: int) -> float:
    """Return seconds for `rows` rows in the call sizes with the best time per row."""
    total = 0.0
    while rows > 0:
        bucket, seconds = min(table, key=lambda bs: bs[1] / min(bs[0], rows))
        calls = max(1, rows // bucket)
        total += calls * seconds
        rows -= calls * bucket
    return total
