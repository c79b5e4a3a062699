"""What device work costs, in seconds measured on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

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

    def scaled(self, factor: float) -> Costs:
        """Costs whose steps take `factor` times as long: a guided row is two that are not."""
        return replace(self, step=tuple((bucket, seconds * factor) for bucket, seconds in self.step))


def _calls(table: Table, rows: int) -> float:
    """Seconds of calls of the sizes that were measured, those with the fewest seconds per useful row."""
    total = 0.0
    while rows > 0:
        bucket, seconds = min(table, key=lambda bs: bs[1] / min(bs[0], rows))
        calls = max(1, rows // bucket)
        total += calls * seconds
        rows -= calls * bucket
    return total
