"""What device work costs, in seconds measured on this device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds: of a denoiser call by its rows, and of one preview and one finish a row."""

    step: tuple[tuple[int, float], ...]
    preview: float
    finish: float

    @classmethod
    def of(cls, step: Mapping[int, float], preview: float, finish: float) -> Costs:
        """Costs with `step` as measured, by bucket."""
        return cls(tuple(sorted(step.items())), preview, finish)

    def steps(self, rows: int) -> float:
        """Seconds of one step of `rows` rows, in the calls that the scheduler would make."""
        total = 0.0
        while rows > 0:
            bucket, seconds = min(self.step, key=lambda bs: bs[1] / min(bs[0], rows))
            calls = max(1, rows // bucket)
            total += calls * seconds
            rows -= calls * bucket
        return total

    def scaled(self, factor: float) -> Costs:
        """Costs whose steps take `factor` times as long: half for rows without guidance."""
        return replace(self, step=tuple((bucket, seconds * factor) for bucket, seconds in self.step))
