"""Pruning "auto": the planner with this engine's calibration and costs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from app.domain import Checkpoint, Notice
from app.engine.protocols import Engine
from app.engine.pruning import calibration, planner
from app.service.generations.spec import PruningContext

DIVERSITY_POOL_FACTOR = 3
"""With diversity, survivors per returned candidate."""


@dataclass(frozen=True, slots=True)
class PruningPolicy:
    """The server's defaults.

    `quality`, in (0, 1), is the expected share of the best-of-N gain that "auto" keeps. `shadow_share` of the
    generations pruned by "auto" run unpruned and report the loss that pruning would cause.
    """

    default: str = "auto"
    quality: float = 0.97
    shadow_share: float = 0.0


class PruningPlanner:
    """Plans for one engine; pure but for the shadow draw. May take a second."""

    def __init__(self, engine: Engine, policy: PruningPolicy) -> None:
        self._engine = engine
        self._policy = policy

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
        if not known.covers_guidance(context.guidance_scale):
            far = (
                f"the calibration was measured at guidance {known.guidance_scale:g}, "
                f"far from {context.guidance_scale:g}"
            )
            return (), False, (_uncalibrated_notice(far),)
        measured = self._engine.generator.guidance_scale > 1
        costs = self._engine.costs.scaled((1 + context.guided) / (1 + measured))
        correlations = calibration.correlations_by_step(known, context.sampler, context.steps)
        min_survivors = DIVERSITY_POOL_FACTOR * context.n if context.diverse else context.n
        plan_input = planner.PlanInput(
            context.n_candidates, context.n, context.steps, correlations, costs, min_survivors
        )
        checkpoints = planner.plan_checkpoints(plan_input, self._policy.quality)
        return checkpoints, bool(checkpoints) and random.random() < self._policy.shadow_share, ()


def _uncalibrated_notice(why: str) -> Notice:
    return Notice("pruning_uncalibrated", f"{why}, so nothing was pruned")
