"""What device work costs, in seconds measured on this device: at start-up, and by every call while serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import TypeAlias

MOVED = 1.1
"""Costs that differ by less than this factor count as the same: a plan for pruning is made for them, and kept."""

UNTRIED = 0.95
"""What a larger call is taken to cost a row, of the only size that was timed, so that it is tried once."""

Table: TypeAlias = tuple[tuple[int, float], ...]
"""Seconds of one call by its rows, rising."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds of a denoiser call, of a preview and of a finish, by their rows."""

    step: Table
    preview: Table
    finish: Table

    @classmethod
    def of(cls, step: Mapping[int, float], preview: Mapping[int, float], finish: Mapping[int, float]) -> Costs:
        """Costs as measured, by the rows of a call."""
        return cls(*(tuple(sorted(some.items())) for some in (step, preview, finish)))

    def steps(self, rows: int) -> float:
        """Seconds of one step of `rows` rows, in the calls that the scheduler would make."""
        return _calls(self.step, rows)

    def previews(self, rows: int) -> float:
        """Seconds of decoding and scoring previews of so many rows."""
        return _calls(self.preview, rows)

    def finishes(self, rows: int) -> float:
        """Seconds of decoding and scoring so many rows in full."""
        return _calls(self.finish, rows)

    def moved(self, before: Costs) -> bool:
        """Whether a size came to be known since, or costs another amount."""
        pairs = ((self.step, before.step), (self.preview, before.preview), (self.finish, before.finish))
        return any(_moved(dict(now), dict(then)) for now, then in pairs)

    def scaled(self, factor: float) -> Costs:
        """Costs whose steps take `factor` times as long: a guided row is two that are not."""
        return replace(self, step=tuple((bucket, seconds * factor) for bucket, seconds in self.step))


class CallSeconds:
    """Seconds of one kind of device call by its rows, at the default size: the quickest call of each size.

    Other work on the machine makes a call slower, never quicker. The first call of a size may also pay for what is
    built once, so that a size counts as known from its second call on.
    """

    def __init__(self, known: Mapping[int, float]) -> None:
        self._quickest = dict(known)
        self._known = set(known)

    @property
    def known(self) -> dict[int, float]:
        """Seconds by rows, rising, of the sizes that are known."""
        return {rows: self._quickest[rows] for rows in sorted(self._known)}

    def note(self, rows: int, seconds: float) -> None:
        """Take a call of so many rows."""
        if rows in self._quickest:
            self._known.add(rows)
        self._quickest[rows] = min(seconds, self._quickest.get(rows, seconds))

    def settle(self, rows: int) -> None:
        """Let the only call of a size count, for want of a second."""
        self._known.add(rows)

    def estimate(self, rows: int) -> float:
        """Seconds of a call of any size: along the line through the known sizes round it, or through the last two.

        Never more than a known call of more rows takes: what a lone first call built must not count for ever.
        """
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
        """The most rows, `most` at most, of a call that is expected to take no longer; one at least."""
        return max((rows for rows in range(1, most + 1) if self.estimate(rows) <= seconds), default=1)


def _moved(now: Mapping[int, float], then: Mapping[int, float]) -> bool:
    if now.keys() != then.keys():
        return True
    return any(max(now[rows], then[rows]) > MOVED * min(now[rows], then[rows]) for rows in now)


def _calls(table: Table, rows: int) -> float:
    """Seconds of calls of the sizes that were measured, those with the fewest seconds per useful row."""
    total = 0.0
    while rows > 0:
        bucket, seconds = min(table, key=lambda bs: bs[1] / min(bs[0], rows))
        calls = max(1, rows // bucket)
        total += calls * seconds
        rows -= calls * bucket
    return total
