"""How long chunks take: the cost model of the fastest worker, and experience."""

from __future__ import annotations

from app.engine.cluster.slots import Attempt, Chunk
from app.engine.cost_model import CostModel
from app.engine.segments.messages import SegmentDone

FORGETTING = 1.02
"""Growth of the quickest known pace per observation: an outlier does not stay."""


class Pace:
    """Expected seconds of chunks, by image size.

    The quickest attempts count, since other work only slows them down.
    """

    def __init__(self) -> None:
        self.costs: CostModel | None = None
        self._factors: dict[float, float] = {}

    def call_s(self, rows: int) -> float:
        """Seconds of one step of `rows` rows at the default size."""
        return self.costs.steps(rows) if self.costs is not None else float(rows)

    def expected_s(self, chunk: Chunk, load: int) -> float:
        """Seconds of a chunk on a worker with `load` rows in all."""
        return self._predicted(chunk.steps, chunk.area, load) * self._factors.get(chunk.area, 1.0)

    def expected_again_s(self, chunk: Chunk, load: int) -> float:
        """The same for a second attempt: it makes rows without a state from their seeds."""
        again = (chunk.stop + 1) / chunk.steps if chunk.home is not None else 1.0
        return self.expected_s(chunk, load) * again

    def learn(self, attempt: Attempt, result: SegmentDone, now: float) -> None:
        """Learn from an attempt that has ended."""
        took = now - attempt.sent - result.timings.encode_ms / 1000
        area = attempt.chunk.area
        factor = took / self._predicted(attempt.steps, area, attempt.load)
        self._factors[area] = min(factor, FORGETTING * self._factors.get(area, factor))
        attempt.slot.observe(factor / self._factors[area], now)

    def slowness_of(self, attempt: Attempt, now: float) -> float:
        """How slow a running attempt is, relative to what is expected."""
        so_far = now - attempt.sent
        area = attempt.chunk.area
        usual = self._predicted(attempt.steps, area, attempt.load) * self._factors.get(area, 1.0)
        return (so_far + attempt.expected_s(now)) / max(usual, 1e-6)

    def _predicted(self, steps: int, area: float, load: int) -> float:
        return max(1e-6, self.call_s(load) * steps * area)
