"""Where a race is cut: the checkpoints with the least expected work whose expected result is good enough.

Pure functions of numbers. The model: final scores of a field are normal; a preview's score correlates with the final
one as the calibration says; previews of two steps form a Markov chain with it (the later one knows all that the
earlier one knew). Quality is the share of the best-of-N gain that is kept, E[mean of the n kept best] over
E[mean of the n best], both above the mean of the field, less its own standard error: a plan is chosen among many on
the same draws, so the likeliest value would favour the lucky ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.cost_model import Costs

Array = NDArray[np.float64]

NUMBERS = 2**17
"""Simulated candidates of all fields together, which bounds the time a plan takes."""

FIELDS = (512, 8192)
"""Fewest and most simulated fields: the standard error of a quality is about 0.002."""

EARLIEST = 0.2
"""Share of the steps before which nothing is cut: previews there say little, whatever a calibration claims."""

HALFWAY = 0.5
"""Share of the steps before which at least max(n, 2) candidates stay."""

MOST_STEPS = 12
"""Steps considered as checkpoints, evenly spread, which bounds the search for long schedules."""


@dataclass(frozen=True, slots=True)
class Race:
    """What a plan is made for. `correlations`: of preview and final score after step 1, 2, ... (Pearson).

    `leave` candidates at least finish, and n, where there are as many.
    """

    n_candidates: int
    n: int
    steps: int
    correlations: tuple[float, ...]
    costs: Costs
    leave: int = 1

    @property
    def floor(self) -> int:
        """The fewest candidates that may finish."""
        return max(self.n, self.leave)

    def work(self, checkpoints: Sequence[Checkpoint]) -> float:
        """Expected device seconds of the race cut there."""
        live, last, total = self.n_candidates, 0, 0.0
        for checkpoint in checkpoints:
            total += (checkpoint.at - last) * self.costs.steps(live) + self.costs.previews(live)
            live, last = checkpoint.keep or live, checkpoint.at
        return total + (self.steps - last) * self.costs.steps(live) + self.costs.finishes(live)


@lru_cache(maxsize=256)
def plan(race: Race, quality: float) -> tuple[Checkpoint, ...]:
    """At most two checkpoints, or none where cutting saves nothing or costs too much quality.

    Takes a second or two of a core at worst.
    """
    if race.n_candidates <= race.floor:
        return ()
    return _Search(race, quality).run()


class _Search:
    """All plans in turn, but for those that cannot be better than the best so far."""

    def __init__(self, race: Race, quality: float) -> None:
        self._race = race
        self._quality = quality
        self._field = _Field(race)
        self._best: tuple[Checkpoint, ...] = ()
        self._least = race.work(())

    def run(self) -> tuple[Checkpoint, ...]:
        """The plan of least work that keeps the quality."""
        places = _places(self._race.steps)
        for i, at in enumerate(places):
            for cut, kept in self._cuts(at):
                self._offer((cut,))
                for later in places[i + 1 :]:
                    self._second(cut, kept, later)
        return self._best

    def _second(self, first: Checkpoint, kept: NDArray[np.intp], at: int) -> None:
        cheapest = (first, Checkpoint(at, _floor(self._race, at)))
        if self._race.work(cheapest) < self._least:
            for cut, _ in self._cuts(at, kept):
                self._offer((first, cut))

    def _cuts(self, at: int, among: NDArray[np.intp] | None = None) -> Iterator[tuple[Checkpoint, NDArray[np.intp]]]:
        """Cuts at a step, harder and harder while they keep the quality, each with its survivors."""
        for keep, kept in self._field.cut(at, _floor(self._race, at), among):
            if self._field.quality(kept) < self._quality:
                return
            yield Checkpoint(at, keep), kept

    def _offer(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        work = self._race.work(checkpoints)
        if work < self._least:
            self._best, self._least = checkpoints, work


def _places(steps: int) -> list[int]:
    """Steps after which a cut is considered."""
    lowest = max(1, int(np.ceil(EARLIEST * steps)))
    if lowest >= steps:
        return []
    return sorted({round(at) for at in np.linspace(lowest, steps - 1, min(MOST_STEPS, steps - lowest))})


def _floor(race: Race, at: int) -> int:
    return max(race.floor, 2) if at < HALFWAY * race.steps else race.floor


def _keeps(live: int, floor: int) -> list[int]:
    """Numbers of survivors considered, falling: every one of a few, about a tenth apart of many."""
    keeps, keep = [], live - 1
    while keep >= floor:
        keeps.append(keep)
        keep = min(keep - 1, round(keep * 0.9))
    return [*keeps, floor] if floor < live and floor not in keeps else keeps


class _Field:
    """Simulated fields: final scores (F, N), and previews that know of them what the calibration says."""

    def __init__(self, race: Race) -> None:
        draw = np.random.default_rng(0)
        fields = min(max(NUMBERS // race.n_candidates, FIELDS[0]), FIELDS[1])
        shape = (fields, race.n_candidates)
        self._n = race.n
        self._finals = draw.standard_normal(shape)
        self._whole = self._gains(self._finals)
        self._previews: dict[int, Array] = {}
        later, known = self._finals, 1.0
        for at in reversed(_places(race.steps)):
            correlation = min(known, max(0.0, race.correlations[at - 1]))
            link = correlation / known if known > 0 else 0.0
            later = link * later + np.sqrt(1 - link**2) * draw.standard_normal(shape)
            self._previews[at], known = later, correlation

    def cut(self, at: int, floor: int, among: NDArray[np.intp] | None = None) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Survivors (F, keep) of a cut at a step, for every number considered."""
        fields, n_candidates = self._finals.shape
        places = np.tile(np.arange(n_candidates), (fields, 1)) if among is None else among
        previews = np.take_along_axis(self._previews[at], places, axis=1)
        ranked = np.take_along_axis(places, np.argsort(-previews, axis=1), axis=1)
        for keep in _keeps(places.shape[1], floor):
            yield keep, ranked[:, :keep]

    def quality(self, kept: NDArray[np.intp]) -> float:
        """Share of the whole gain that these survivors hold, less its standard error."""
        gains, whole = self._gains(np.take_along_axis(self._finals, kept, axis=1)), float(self._whole.mean())
        share = float(gains.mean()) / whole
        error = (gains - share * self._whole).std() / (whole * np.sqrt(len(gains)))
        return share - float(error)

    def _gains(self, finals: Array) -> Array:
        if self._n == 1:
            return np.asarray(finals.max(axis=1))
        return np.asarray(np.partition(finals, -self._n, axis=1)[:, -self._n :].mean(axis=1))
