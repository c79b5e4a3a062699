"""Pruning planner: checkpoints with the least work at a required quality.

Pure functions of numbers. In the model the final scores of a field are normal. A preview's score correlates with
the final score as calibrated. Previews of two steps form a Markov chain with it: the later one contains all that
the earlier one knew.

Quality is the kept share of the best-of-N gain. It is E[mean of the n kept best] over E[mean of the n best], both
above the mean of the field. Its standard error is subtracted, because choosing among many plans on the same draws
favours lucky ones.
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
"""Simulated candidates of all fields together; limits the planning time."""

FIELDS = (512, 8192)
"""Minimum and maximum of simulated fields; the standard error is about 0.002."""

EARLIEST = 0.2
"""Earliest checkpoint as a share of the steps; earlier previews are unreliable."""

HALFWAY = 0.5
"""Share of the steps before which at least max(n, 2) candidates are kept."""

MOST_STEPS = 12
"""Number of evenly spaced steps considered as checkpoints; limits the search."""


@dataclass(frozen=True, slots=True)
class Race:
    """The input of a plan.

    `correlations`: Pearson correlation of preview and final score after step 1, 2, ... At least max(n, `leave`)
    candidates finish, where there are as many.
    """

    n_candidates: int
    n: int
    steps: int
    correlations: tuple[float, ...]
    costs: Costs
    leave: int = 1

    @property
    def floor(self) -> int:
        """The minimum number of candidates that finish."""
        return max(self.n, self.leave)

    def work(self, checkpoints: Sequence[Checkpoint]) -> float:
        """Return the expected device seconds with these checkpoints."""
        live, last, total = self.n_candidates, 0, 0.0
        for checkpoint in checkpoints:
            total += (checkpoint.at - last) * self.costs.steps(live) + self.costs.previews(live)
            live, last = checkpoint.keep or live, checkpoint.at
        return total + (self.steps - last) * self.costs.steps(live) + self.costs.finishes(live)


@lru_cache(maxsize=256)
def plan(race: Race, quality: float) -> tuple[Checkpoint, ...]:
    """Return at most two checkpoints, none if pruning does not pay.

    Pruning does not pay if it saves no work or costs too much quality. Takes one or two seconds of a core at most.
    """
    if race.n_candidates <= race.floor:
        return ()
    return _Search(race, quality).run()


class _Search:
    """Exhaustive search that skips plans which cannot improve on the best so far."""

    def __init__(self, race: Race, quality: float) -> None:
        self._race = race
        self._quality = quality
        self._field = _Field(race)
        self._best: tuple[Checkpoint, ...] = ()
        self._least = race.work(())

    def run(self) -> tuple[Checkpoint, ...]:
        """Return the plan with the least work at the required quality."""
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
        """Yield ever harder cuts at a step, with survivors, while the quality suffices."""
        for keep, kept in self._field.cut(at, _floor(self._race, at), among):
            if self._field.quality(kept) < self._quality:
                return
            yield Checkpoint(at, keep), kept

    def _offer(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        work = self._race.work(checkpoints)
        if work < self._least:
            self._best, self._least = checkpoints, work


def _places(steps: int) -> list[int]:
    """Return the steps considered as checkpoints."""
    lowest = max(1, int(np.ceil(EARLIEST * steps)))
    if lowest >= steps:
        return []
    return sorted({round(at) for at in np.linspace(lowest, steps - 1, min(MOST_STEPS, steps - lowest))})


def _floor(race: Race, at: int) -> int:
    return max(race.floor, 2) if at < HALFWAY * race.steps else race.floor


def _keeps(live: int, floor: int) -> list[int]:
    """Return the numbers of survivors considered, descending.

    Every small number is included; large ones are about 10 % apart.
    """
    keeps, keep = [], live - 1
    while keep >= floor:
        keeps.append(keep)
        keep = min(keep - 1, round(keep * 0.9))
    return [*keeps, floor] if floor < live and floor not in keeps else keeps


class _Field:
    """Simulated fields: final scores (F, N), and previews correlated as calibrated."""

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
        """Yield the survivors (F, keep) of a cut at a step, for every number considered."""
        fields, n_candidates = self._finals.shape
        places = np.tile(np.arange(n_candidates), (fields, 1)) if among is None else among
        previews = np.take_along_axis(self._previews[at], places, axis=1)
        ranked = np.take_along_axis(places, np.argsort(-previews, axis=1), axis=1)
        for keep in _keeps(places.shape[1], floor):
            yield keep, ranked[:, :keep]

    def quality(self, kept: NDArray[np.intp]) -> float:
        """Return the share of the gain that survivors keep, minus its standard error."""
        gains, whole = self._gains(np.take_along_axis(self._finals, kept, axis=1)), float(self._whole.mean())
        share = float(gains.mean()) / whole
        error = (gains - share * self._whole).std() / (whole * np.sqrt(len(gains)))
        return share - float(error)

    def _gains(self, finals: Array) -> Array:
        if self._n == 1:
            return np.asarray(finals.max(axis=1))
        return np.asarray(np.partition(finals, -self._n, axis=1)[:, -self._n :].mean(axis=1))
