"""Pruning planner: checkpoints with the least work at a required quality.

Pure functions of numbers. In the model the final scores of a field are normal. A preview's score correlates with
the final score as calibrated. Previews of two steps form a Markov chain with it: the later one contains all that
the earlier one knew.

Quality is the kept share of the best-of-N gain. It is E[mean of the n kept best] over E[mean of the n best], both
above the mean of the field. Its standard error is subtracted, because choosing among many plans on the same draws
favours lucky ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.cost_model import CostModel

Array = NDArray[np.float64]

SIMULATED_SCORES = 2**17
"""Simulated candidates of all fields together; limits the planning time."""

SIMULATED_FIELDS = (512, 8192)
"""Minimum and maximum of simulated fields; the standard error is about 0.002."""

EARLIEST_SHARE = 0.2
"""Earliest checkpoint as a share of the steps; earlier previews are unreliable."""

HALFWAY_SHARE = 0.5
"""Share of the steps before which at least max(n, 2) candidates are kept."""

FEW_STEPS = 4
"""Steps up to which at most one checkpoint is used."""

MAX_STEPS_CONSIDERED = 12
"""Number of evenly spaced steps considered as checkpoints; limits the search."""


@dataclass(frozen=True, slots=True)
class PlanInput:
    """The input of a plan.

    `correlations`: Pearson correlation of preview and final score after step 1, 2, ... At least max(n, `min_survivors`)
    candidates finish, where there are as many. `steered`: steps after which rows are steered.
    """

    n_candidates: int
    n: int
    steps: int
    correlations: tuple[float, ...]
    costs: CostModel
    min_survivors: int = 1
    steered: tuple[int, ...] = ()

    @property
    def min_finishers(self) -> int:
        """The minimum number of candidates that finish."""
        return max(self.n, self.min_survivors)

    def device_seconds(self, checkpoints: Sequence[Checkpoint]) -> float:
        """Return the expected device seconds with these checkpoints."""
        live, last, total = self.n_candidates, 0, 0.0
        for checkpoint in checkpoints:
            total += self._steps_seconds(last, checkpoint.at, live) + self.costs.previews(live)
            live, last = checkpoint.keep or live, checkpoint.at
        return total + self._steps_seconds(last, self.steps, live) + self.costs.finishes(live)

    def _steps_seconds(self, last: int, at: int, live: int) -> float:
        """Return the seconds of the steps after `last` up to `at`, with steering."""
        steered = sum(last < step <= at for step in self.steered)
        return (at - last) * self.costs.steps(live) + (steered * self.costs.steers(live) if steered else 0.0)


class FeasibleCuts:
    """How hard a field may be cut at the required quality, by first cut and step.

    It depends on the calibration and the numbers of a race, not on costs. A search adds what it had to simulate, so
    the next search with other costs takes milliseconds instead of a second. Any thread.
    """

    def __init__(self) -> None:
        self._choices: dict[tuple[Checkpoint | None, int], int] = {}

    def count(self, first: Checkpoint | None, at: int, simulate: Callable[[], int]) -> int:
        """Return how many of the survivor counts at `at` keep the quality, after `first`."""
        key = (first, at)
        if key not in self._choices:
            self._choices[key] = simulate()
        return self._choices[key]


def plan_checkpoints(
    plan_input: PlanInput, quality: float, feasible: FeasibleCuts | None = None
) -> tuple[Checkpoint, ...]:
    """Return at most two checkpoints; none if pruning does not pay.

    With `FEW_STEPS` and fewer there is at most one. Pruning does not pay if it saves no work or costs too much
    quality. Takes one or two seconds of a core at most. `feasible` are the cuts known from earlier plans that differ
    in costs only.
    """
    if plan_input.n_candidates <= plan_input.min_finishers:
        return ()
    return _Search(plan_input, quality, feasible or FeasibleCuts()).run()


class _Search:
    """Exhaustive search that skips plans which cannot improve on the best so far."""

    def __init__(self, plan_input: PlanInput, quality: float, feasible: FeasibleCuts) -> None:
        self._input = plan_input
        self._quality = quality
        self._feasible = feasible
        self._best: tuple[Checkpoint, ...] = ()
        self._least = plan_input.device_seconds(())

    def run(self) -> tuple[Checkpoint, ...]:
        """Return the plan with the least work at the required quality."""
        places = _checkpoint_steps(self._input.steps)
        for i, at in enumerate(places):
            for cut in self._cuts(None, at):
                self._consider((cut,))
                for later in places[i + 1 :] if self._input.steps > FEW_STEPS else ():
                    self._search_second(cut, later)
        return self._best

    def _search_second(self, first: Checkpoint, at: int) -> None:
        cheapest = (first, Checkpoint(at, _min_kept(self._input, at)))
        if self._input.device_seconds(cheapest) < self._least:
            for cut in self._cuts(first, at):
                self._consider((first, cut))

    def _cuts(self, first: Checkpoint | None, at: int) -> list[Checkpoint]:
        """Return ever harder cuts at a step that keep the quality."""
        live = self._input.n_candidates if first is None else first.keep
        assert live is not None
        keeps = _survivor_counts(live, _min_kept(self._input, at))
        count = self._feasible.count(first, at, lambda: self._field.count_good(first, at, keeps, self._quality))
        return [Checkpoint(at, keep) for keep in keeps[:count]]

    @cached_property
    def _field(self) -> _SimulatedFields:
        return _SimulatedFields(self._input)

    def _consider(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        work = self._input.device_seconds(checkpoints)
        if work < self._least:
            self._best, self._least = checkpoints, work


def _checkpoint_steps(steps: int) -> list[int]:
    """Return the steps considered as checkpoints."""
    lowest = max(1, int(np.ceil(EARLIEST_SHARE * steps)))
    if lowest >= steps:
        return []
    return sorted({round(at) for at in np.linspace(lowest, steps - 1, min(MAX_STEPS_CONSIDERED, steps - lowest))})


def _min_kept(plan_input: PlanInput, at: int) -> int:
    return max(plan_input.min_finishers, 2) if at < HALFWAY_SHARE * plan_input.steps else plan_input.min_finishers


def _survivor_counts(live: int, floor: int) -> list[int]:
    """Return the numbers of survivors considered, descending.

    Every small number is included; large ones are about 10 % apart.
    """
    keeps, keep = [], live - 1
    while keep >= floor:
        keeps.append(keep)
        keep = min(keep - 1, round(keep * 0.9))
    return [*keeps, floor] if floor < live and floor not in keeps else keeps


class _SimulatedFields:
    """Simulated fields: final scores (F, N), and previews correlated as calibrated."""

    def __init__(self, plan_input: PlanInput) -> None:
        draw = np.random.default_rng(0)
        fields = min(max(SIMULATED_SCORES // plan_input.n_candidates, SIMULATED_FIELDS[0]), SIMULATED_FIELDS[1])
        shape = (fields, plan_input.n_candidates)
        self._n = plan_input.n
        self._finals = draw.standard_normal(shape)
        self._unpruned_gains = self._gains(self._finals)
        self._previews: dict[int, Array] = {}
        later, known = self._finals, 1.0
        for at in reversed(_checkpoint_steps(plan_input.steps)):
            correlation = min(known, max(0.0, plan_input.correlations[at - 1]))
            link = correlation / known if known > 0 else 0.0
            later = link * later + np.sqrt(1 - link**2) * draw.standard_normal(shape)
            self._previews[at], known = later, correlation

        self._ranked: dict[int, NDArray[np.intp]] = {}

    def count_good(self, first: Checkpoint | None, at: int, keeps: Sequence[int], quality: float) -> int:
        """Return how many of the descending `keeps` have the quality in a row."""
        among = None if first is None else self.ranked(first.at)[:, : first.keep]
        ranked = self.ranked(at, among)
        good = (self.quality(ranked[:, :keep]) >= quality for keep in keeps)
        return sum(1 for _ in takewhile(bool, good))

    def ranked(self, at: int, among: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Return places (F, N) by descending preview; with `among` (F, K) those only."""
        if among is not None:
            previews = np.take_along_axis(self._previews[at], among, axis=1)
            return np.take_along_axis(among, np.argsort(-previews, axis=1), axis=1)
        if at not in self._ranked:
            self._ranked[at] = np.argsort(-self._previews[at], axis=1)
        return self._ranked[at]

    def quality(self, kept: NDArray[np.intp]) -> float:
        """Return the share of the gain that survivors keep, minus its standard error."""
        gains, whole = self._gains(np.take_along_axis(self._finals, kept, axis=1)), float(self._unpruned_gains.mean())
        share = float(gains.mean()) / whole
        error = (gains - share * self._unpruned_gains).std() / (whole * np.sqrt(len(gains)))
        return share - float(error)

    def _gains(self, finals: Array) -> Array:
        if self._n == 1:
            return np.asarray(finals.max(axis=1))
        return np.asarray(np.partition(finals, -self._n, axis=1)[:, -self._n :].mean(axis=1))
