"""Chunks of rows, their attempts, and the workers as the dispatcher sees them.

Owns what is in flight on a worker and how fast it is. `dispatcher` decides.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.cluster.workers import Worker
from app.engine.segments.messages import Kept, Segment, SegmentDone

WINDOW_ROWS = 64
"""Rows in flight on a worker; further ones wait until a worker has room.

Owners share it evenly. An owner that comes later has its share at once, so that there may be up to twice as many.
"""

SLOW = 1.5
"""Factor from which a worker counts as slow; smaller ones are noise."""

SLOWNESS_HALF_LIFE_S = 30.0
"""Seconds without work after which half of an observed slowness is forgotten."""

SMOOTHING = 0.5
"""Weight of the newest observation of a worker's speed."""


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """The result of a chunk, who made it, and the step at which that began."""

    result: SegmentDone
    worker: str
    step: int


@dataclass(slots=True, eq=False)
class Chunk:
    """Rows of a generation that a worker takes from step `step` to step `stop`.

    `make` builds the segment of an attempt; `on_kept` takes latents of the one that began at a step, from which later
    attempts start. `home` is the worker that keeps their latents, None for latents that
    travel. `area` is the image's size relative to the default. `losses` counts attempts that ended with their worker,
    `refused_by` are workers on which it failed.
    """

    generation: str
    owner: str
    rows: int
    step: int
    stop: int
    make: Callable[[], Segment]
    on_step: Callable[[int], None]
    on_kept: Callable[[int, Kept], None]
    done: asyncio.Future[Delivery]
    home: str | None = None
    exclusive: bool = False
    area: float = 1.0
    order: int = 0
    losses: int = 0
    refused_by: set[Slot] = field(default_factory=set)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def quarantined(self) -> bool:
        """Whether its next attempt must run alone: two workers died with it."""
        return self.losses > 1

    @property
    def steps(self) -> int:
        """The steps of the next attempt, with its decoding as one more."""
        return self.stop - self.step + 1


@dataclass(slots=True, eq=False)
class Attempt:
    """A segment on a worker.

    `load` is the maximum of rows that the worker had meanwhile. An `exclusive` one shares the worker with its own
    generation only, a `quarantined` one with nothing. `step` is the last one that it reported, at `moved`; None before
    it began. A `dropped` one is no longer needed.
    """

    chunk: Chunk
    slot: Slot
    segment: Segment
    exclusive: bool
    quarantined: bool
    sent: float
    load: int = 0
    step: int | None = None
    moved: float = 0.0
    dropped: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def alone(self) -> bool:
        """Whether its worker has run nothing else meanwhile."""
        return self.load == self.chunk.rows

    @property
    def steps(self) -> int:
        """Its steps, with its decoding as one more."""
        return self.chunk.stop - self.segment.step + 1

    @property
    def made(self) -> int:
        """Its steps so far."""
        return max(0, (self.step or 0) - self.segment.step)

    def note_step(self, step: int, now: float) -> None:
        """Record progress."""
        self.step, self.moved, self.slot.suspect = step, now, False

    def expected_s(self, now: float) -> float:
        """Seconds until its end, at its pace so far; before the first step, at least that."""
        return (now - self.sent) / max(1, self.made) * (self.steps - self.made)


@dataclass(slots=True, eq=False)
class Slot:
    """A worker and its attempts.

    `baseline` is its time for a call relative to the fastest worker, as measured on load. A `suspect` has shown no
    sign of life for long. `sent` counts segments, `calls` are one-off calls in flight. `starts` counts consecutive
    losses and failed starts; a worker with too many is `given_up`.
    """

    worker: Worker
    alive: bool = False
    suspect: bool = False
    attempts: set[Attempt] = field(default_factory=set)
    baseline: float = 1.0
    sent: int = 0
    calls: int = 0
    starts: int = 0
    given_up: bool = False
    _observed: float = 1.0
    _observed_at: float = 0.0

    @property
    def rows(self) -> int:
        """Rows in flight."""
        return sum(a.chunk.rows for a in self.attempts)

    def rows_of(self, owner: str) -> int:
        """Rows of an owner in flight."""
        return sum(a.chunk.rows for a in self.attempts if a.chunk.owner == owner)

    def has_room(self, chunk: Chunk) -> bool:
        """Whether a chunk fits into the window."""
        owners = {a.chunk.owner for a in self.attempts} | {chunk.owner}
        share = WINDOW_ROWS // len(owners)
        of_owner = self.rows_of(chunk.owner)
        fits = not of_owner or of_owner + chunk.rows <= share
        return fits and (not self.attempts or self.rows + chunk.rows <= 2 * WINDOW_ROWS)

    def serves_others(self, generation: str) -> bool:
        """Whether it runs other generations."""
        return any(a.chunk.generation != generation for a in self.attempts)

    def is_closed_to(self, generation: str) -> bool:
        """Whether it runs another generation exclusively, or any rows in quarantine."""
        return any(a.quarantined or (a.exclusive and a.chunk.generation != generation) for a in self.attempts)

    def observe(self, factor: float, now: float) -> None:
        """Learn from an attempt that took `factor` times the usual."""
        known = self._recalled(now)
        self._observed, self._observed_at = known + SMOOTHING * (factor - known), now

    def slowness(self, now: float) -> float:
        """Its time for a call relative to the fastest worker; 1 if about equal."""
        factor = self._recalled(now)
        return factor if factor > SLOW else 1.0

    def reset(self, baseline: float, now: float) -> None:
        """Forget what was observed, after a comparison of all workers."""
        self.baseline, self._observed, self._observed_at = baseline, baseline, now

    def _recalled(self, now: float) -> float:
        share = math.exp2((self._observed_at - now) / SLOWNESS_HALF_LIFE_S)
        return self.baseline + share * (self._observed - self.baseline)
