"""Pruning planner: checkpoints with the least work at a required quality.

Pure functions of numbers. In the model the final scores of a field are normal. A preview's score correlates with
the final score as calibrated. Previews of two steps form a Markov chain with it: the later one contains all that
the earlier one knew.

Quality is the kept share of the best-of-N gain. It is E[mean of the n kept best] over E[mean of the n best], both
above the mean of the field. Its standard error is subtracted, because choosing among many plans on the same draws
favours lucky ones. Real fields are not normal, so the loss is multiplied by the ratio that replays found, see `replay`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.cost_model import CostModel

Array = NDArray[np.float64]
Plan: TypeAlias = tuple[Checkpoint, ...]

SIMULATED_SCORES = 2**17
"""Simulated candidates of all fields together; limits the planning time."""

SIMULATED_FIELDS = (512, 8192)
"""Minimum and maximum of simulated fields; the standard error is about 0.002."""

EARLIEST_SHARE = 0.2
"""Earliest checkpoint as a share of the steps, unless previews are reliable."""

RELIABLE = 0.5
"""Minimum correlation of previews that are reliable at any step."""

HALFWAY_SHARE = 0.5
"""Share of the steps before which at least max(n, 2) candidates are kept."""

FEW_STEPS = 4
"""Steps up to which at most one checkpoint is used."""

MAX_CHECKPOINTS = 3
"""Maximum of checkpoints; the last of three lies in the second half."""

NEAR_BEST = 1.05
"""Maximum work of two checkpoints after which a third is tried.

Relative to the least; it limits the search.
"""

MAX_STEPS_CONSIDERED = 12
"""Number of evenly spaced steps considered as checkpoints; limits the search."""


@dataclass(frozen=True, slots=True)
class PlanInput:
    """The input of a plan.

    `correlations`: Pearson correlation of preview and final score after step 1, 2, ... At least max(n, `min_survivors`)
    candidates finish, where there are as many. `steered`: steps after which rows are steered. `loss_ratio`: the real
    loss by pruning relative to the modelled one, above 0.
    """

    n_candidates: int
    n: int
    steps: int
    correlations: tuple[float, ...]
    costs: CostModel
    min_survivors: int = 1
    steered: tuple[int, ...] = ()
    loss_ratio: float = 1.0

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
    """How hard a field may be cut at the required quality, by earlier cuts and step.

    It depends on the calibration and the numbers of a race, not on costs. A search adds what it had to simulate, so
    the next search with other costs takes milliseconds instead of a second. Any thread.
    """

    def __init__(self) -> None:
        self._choices: dict[tuple[Plan, int], int] = {}

    def count(self, cuts: Plan, at: int, simulate: Callable[[], int]) -> int:
        """Return how many of the survivor counts at `at` keep the quality, after `cuts`."""
        key = (cuts, at)
        if key not in self._choices:
            self._choices[key] = simulate()
        return self._choices[key]


def plan_checkpoints(plan_input: PlanInput, quality: float, feasible: FeasibleCuts | None = None) -> Plan:
    """Return at most `MAX_CHECKPOINTS` checkpoints; none if pruning does not pay.

    With `FEW_STEPS` and fewer there is at most one. Pruning does not pay if it saves no work or costs too much
    quality. Takes one or two seconds of a core at most. `feasible` are the cuts known from earlier plans that differ
    in costs only.
    """
    if plan_input.n_candidates <= plan_input.min_finishers:
        return ()
    simulation = Simulation(plan_input)
    return _Search(simulation, 1 - (1 - quality) / plan_input.loss_ratio, feasible or FeasibleCuts()).run()


class Simulation:
    """Plans of one input and their modelled losses, on the same simulated fields.

    `scores` candidates are simulated, in all fields together.
    """

    def __init__(self, plan_input: PlanInput, scores: int = SIMULATED_SCORES) -> None:
        self.plan_input = plan_input
        self._scores = scores

    @cached_property
    def fields(self) -> _SimulatedFields:
        """Simulated fields, drawn when they are first needed."""
        return _SimulatedFields(self.plan_input, self._scores)

    def plan(self, modelled_quality: float) -> Plan:
        """Return the plan with the least work; `loss_ratio` is not applied."""
        return _Search(self, modelled_quality, FeasibleCuts()).run()

    def loss(self, plan: Plan) -> tuple[float, float]:
        """Return the modelled loss by a plan, and its standard deviation over fields.

        Both are shares of the mean gain. The standard error of the model is added to the loss, as in planning.
        """
        kept = self.fields.finals_ranked(plan[:-1], plan[-1].at)[:, : plan[-1].keep]
        share, error = self.fields.quality(kept)
        return 1 - share + error, float(error * np.sqrt(len(kept)))


class _Search:
    """Search that skips plans which cannot improve on the best so far.

    It is exhaustive for two cuts. A third is tried after those near the best two.
    """

    def __init__(self, simulation: Simulation, quality: float, feasible: FeasibleCuts) -> None:
        self._simulation = simulation
        self._input = simulation.plan_input
        self._quality = quality
        self._feasible = feasible
        self._places = _checkpoint_steps(self._input)
        self._best: Plan = ()
        self._twice_cut: dict[Plan, float] = {}
        self._least = self._input.device_seconds(())

    def run(self) -> Plan:
        """Return the plan with the least work at the required quality."""
        self._extend((), self._places, 2 if self._input.steps > FEW_STEPS else 1)
        if len(self._best) == 2:
            self._extend_twice_cut()
        return self._best

    def _extend(self, cuts: Plan, places: Sequence[int], most: int) -> None:
        """Consider plans that begin with `cuts`, and cut next at one of `places`.

        They have at most `most` cuts.
        """
        for i, at in enumerate(places):
            bound = (*cuts, Checkpoint(at, self._input.min_finishers))
            if self._input.device_seconds(bound) >= self._least:
                continue
            for cut in self._next_cuts(cuts, at):
                self._consider((*cuts, cut))
                if len(cuts) + 1 < most:
                    self._extend((*cuts, cut), places[i + 1 :], most)

    def _extend_twice_cut(self) -> None:
        """Consider a third cut after good plans of two."""
        late = [place for place in self._places if place >= HALFWAY_SHARE * self._input.steps]
        near = NEAR_BEST * self._least
        for plan in [plan for plan, work in self._twice_cut.items() if work <= near]:
            self._extend(plan, [place for place in late if place > plan[-1].at], MAX_CHECKPOINTS)

    def _next_cuts(self, cuts: Plan, at: int) -> list[Checkpoint]:
        """Return ever harder cuts at a step that keep the quality."""
        live = cuts[-1].keep if cuts else self._input.n_candidates
        assert live is not None
        keeps = _survivor_counts(live, _min_kept(self._input, at))

        def simulate() -> int:
            return self._simulation.fields.count_good(cuts, at, keeps, self._quality)

        count = self._feasible.count(cuts, at, simulate)
        return [Checkpoint(at, keep) for keep in keeps[:count]]

    def _consider(self, plan: Plan) -> None:
        work = self._input.device_seconds(plan)
        if len(plan) == 2:
            self._twice_cut[plan] = work
        if work < self._least:
            self._best, self._least = plan, work


def _checkpoint_steps(plan_input: PlanInput) -> list[int]:
    """Return the steps considered as checkpoints."""
    steps = plan_input.steps
    reliable = next((at for at, known in enumerate(plan_input.correlations, 1) if known >= RELIABLE), steps)
    lowest = min(reliable, max(1, int(np.ceil(EARLIEST_SHARE * steps))))
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

    def __init__(self, plan_input: PlanInput, scores: int = SIMULATED_SCORES) -> None:
        draw = np.random.default_rng(0)
        fields = min(max(scores // plan_input.n_candidates, SIMULATED_FIELDS[0]), SIMULATED_FIELDS[1])
        shape = (fields, plan_input.n_candidates)
        self._n = plan_input.n
        self._finals = draw.standard_normal(shape)
        self._unpruned_gains = self._gains(self._finals)
        self._previews: dict[int, Array] = {}
        later, known = self._finals, 1.0
        for at in reversed(_checkpoint_steps(plan_input)):
            correlation = min(known, max(0.0, plan_input.correlations[at - 1]))
            link = correlation / known if known > 0 else 0.0
            later = link * later + np.sqrt(1 - link**2) * draw.standard_normal(shape)
            self._previews[at], known = later, correlation
        self._ranked: dict[int, tuple[tuple[Plan, int], NDArray[np.intp]]] = {}

    def count_good(self, cuts: Plan, at: int, keeps: Sequence[int], quality: float) -> int:
        """Return how many of the descending `keeps` have the quality in a row."""
        finals = self.finals_ranked(cuts, at)
        shares = (self.quality(finals[:, :keep]) for keep in keeps)
        return sum(1 for _ in takewhile(bool, (share - error >= quality for share, error in shares)))

    def finals_ranked(self, cuts: Plan, at: int) -> Array:
        """Return finals (F, K) of those who survive `cuts`, by descending preview at `at`."""
        return np.take_along_axis(self._finals, self._places(cuts, at), axis=1)

    def _places(self, cuts: Plan, at: int) -> NDArray[np.intp]:
        """Return places (F, K) as in `finals_ranked`; the last one of each depth is kept."""
        key = (cuts, at)
        stored = self._ranked.get(len(cuts))
        if stored is not None and stored[0] == key:
            return stored[1]
        if cuts:
            among = self._places(cuts[:-1], cuts[-1].at)[:, : cuts[-1].keep]
            previews = np.take_along_axis(self._previews[at], among, axis=1)
            ranked = np.take_along_axis(among, np.argsort(-previews, axis=1), axis=1)
        else:
            ranked = np.argsort(-self._previews[at], axis=1)
        self._ranked[len(cuts)] = (key, ranked)
        return ranked

    def quality(self, finals: Array) -> tuple[float, float]:
        """Return the share of the gain that survivors (F, K) keep, and its standard error."""
        gains, whole = self._gains(finals), float(self._unpruned_gains.mean())
        share = float(gains.mean()) / whole
        error = (gains - share * self._unpruned_gains).std() / (whole * np.sqrt(len(gains)))
        return share, float(error)

    def _gains(self, finals: Array) -> Array:
        if self._n == 1:
            return np.asarray(finals.max(axis=1))
        return np.asarray(np.partition(finals, -self._n, axis=1)[:, -self._n :].mean(axis=1))
