"""Pruning "auto": the planner with this engine's calibration and costs."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

from app.domain import Checkpoint, GenerationSpec, Notice
from app.engine.cost_model import CostModel
from app.engine.protocols import Engine
from app.engine.pruning import calibration, planner, replay
from app.service.generations.spec import PruningContext
from app.service.types import GenerationParams

DIVERSITY_POOL_FACTOR = 3
"""With diversity, survivors per returned candidate."""

MAX_PLANS = 256
"""Stored plans; the oldest is dropped first."""

Plan: TypeAlias = tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class PruningPolicy:
    """The server's defaults.

    `quality`, in (0, 1), is the expected share of the best-of-N gain that "auto" keeps. `shadow_share` of the
    generations pruned by "auto" run unpruned and report the loss that pruning would cause.
    """

    default: str = "auto"
    quality: float = 0.97
    shadow_share: float = 0.0


def device_share(engine: Engine, spec: GenerationSpec) -> float:
    """Device time of a generation, in candidates with the default steps and sampler."""
    info = engine.generator
    usual, calls = info.steps * info.calls_per_step(info.sampler), info.calls_per_step(spec.sampler)
    steered = engine.costs.steering_factor(spec.steps_made * calls, len(spec.steered_steps))
    return spec.n_candidates * steered * spec.steps_made * calls / usual


class PlanCache:
    """Plans by generation shape. Any thread.

    The first plan of a shape is computed by the caller, which takes up to two seconds. After a change of the costs the
    old plan serves until a background thread has computed the new one: its quality holds at any cost. What is known of
    the quality is kept, so that later plans of a shape take milliseconds.
    """

    def __init__(self, quality: float) -> None:
        self._quality = quality
        self._plans: dict[PruningContext, tuple[CostModel, Plan]] = {}
        self._feasible: dict[PruningContext, planner.FeasibleCuts] = {}
        self._pending: set[PruningContext] = set()
        self._lock = threading.Lock()
        self._background = ThreadPoolExecutor(1, "pruning-planner")

    def get(self, shape: PruningContext, plan_input: planner.PlanInput) -> Plan:
        """Return the stored plan, or compute it."""
        with self._lock:
            stored = self._plans.get(shape)
            stale = stored is not None and stored[0] != plan_input.costs and shape not in self._pending
            if stale:
                self._pending.add(shape)
        if stale:
            self._background.submit(self._compute, shape, plan_input)
        return stored[1] if stored is not None else self._compute(shape, plan_input)

    def _compute(self, shape: PruningContext, plan_input: planner.PlanInput) -> Plan:
        with self._lock:
            feasible = self._feasible.setdefault(shape, planner.FeasibleCuts())
        try:
            plan = planner.plan_checkpoints(plan_input, self._quality, feasible)
        finally:
            with self._lock:
                self._pending.discard(shape)
        with self._lock:
            self._plans.pop(shape, None)
            self._plans[shape] = (plan_input.costs, plan)
            if len(self._plans) > MAX_PLANS:
                oldest = next(iter(self._plans))
                del self._plans[oldest]
                self._feasible.pop(oldest, None)
        return plan


class PruningPlanner:
    """Plans for one engine; pure but for the shadow draw.

    The first plan of a shape may take a second.
    """

    def __init__(self, engine: Engine, policy: PruningPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._plans = PlanCache(policy.quality)

    def may_plan(self, params: GenerationParams) -> bool:
        """Whether these parameters may take a plan, which takes time."""
        mode = params.pruning or self._policy.default
        return mode == "auto" and params.n_candidates != params.n and self._engine.calibration is not None

    def __call__(
        self, mode: str | None, context: PruningContext
    ) -> tuple[tuple[Checkpoint, ...], bool, tuple[Notice, ...]]:
        """Checkpoints, whether in shadow, and a notice if "auto" is unavailable."""
        if (mode or self._policy.default) == "off" or context.n_candidates == context.n:
            return (), False, ()
        known = self._engine.calibration
        if known is None:
            return (), False, (_uncalibrated_notice("this model has no calibration"),)
        if not known.matches(self._engine.generator, self._engine.scorer):
            return (), False, (_uncalibrated_notice("the calibration was measured with other weights"),)
        known = known.of_steering(context.steering)
        if known is None:
            how = "with steering" if context.steering is None else "without this steering"
            return (), False, (_uncalibrated_notice(f"the calibration was measured {how}"),)
        info = self._engine.generator
        if not known.covers_guidance(context.guidance_scale, info.unguided_scale):
            far = (
                f"the calibration was measured at guidance {known.guidance_scale:g}, "
                f"far from {context.guidance_scale:g}"
            )
            return (), False, (_uncalibrated_notice(far),)
        guided, measured = info.is_guided(context.guidance_scale), info.is_guided(info.guidance_scale)
        calls = info.calls_per_step(context.sampler)
        costs = self._engine.costs.scaled(calls * (1 + guided) / (1 + measured))
        correlations = calibration.correlations_by_step(known, context.sampler, context.steps)
        diverse = context.diverse or any(name != self._engine.scorer.id for name in context.scorers)
        min_survivors = DIVERSITY_POOL_FACTOR * context.n if diverse else context.n
        steered = context.steering.steps(context.sampler, context.steps, context.steps) if context.steering else ()
        plan_input = planner.PlanInput(
            context.n_candidates,
            context.n,
            context.steps,
            correlations,
            costs,
            min_survivors,
            steered,
            replay.assumed_ratio(known.replay),
        )
        # of the scale only this reaches the costs, of the scorers only this the survivors
        shape = replace(context, guidance_scale=float(guided), diverse=diverse, scorers=())
        checkpoints = self._plans.get(shape, plan_input)
        return checkpoints, bool(checkpoints) and random.random() < self._policy.shadow_share, ()


def _uncalibrated_notice(why: str) -> Notice:
    return Notice("pruning_uncalibrated", f"{why}, so nothing was pruned")
