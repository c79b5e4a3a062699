"""What plans really keep: replays of plans on traces of other prompts.

The planner's model is normal and nested. Real fields have tails, correlations that differ from prompt to prompt, and
errors of previews that differ from step to step. A replay is exact: a survivor's score does not depend on who was
dropped. So the traces of a calibration say how much larger than modelled the loss is.

The prompts are divided into folds. Each is replayed by plans from a calibration fitted to the other prompts, because
the planner selects steps that look good partly by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint
from app.engine.cost_model import CostModel
from app.engine.pruning import calibration
from app.engine.pruning.checkpoints import select_survivors
from app.engine.pruning.planner import PlanInput, Simulation
from app.engine.pruning.trajectory import Trajectory
from models.protocols import Calibration, GeneratorInfo, ReplayedPlans, ScorerInfo

Array = NDArray[np.float64]

FOLDS = 6
"""Parts of the prompts; each is replayed by plans from the others."""

LOSSES = (0.5, 1.0, 2.0)
"""Modelled losses at which plans are replayed, relative to the required one.

A single plan depends on chance.
"""

SIMULATED_SCORES = 2**14
"""Simulated candidates per fold.

Fewer than for a plan that is used, because many plans are averaged.
"""

CONFIDENCE = 1.645
"""Standard errors above the ratio of losses that plans assume: one-sided 95 %."""

MAX_RATIO = 3.0
"""Largest ratio that plans assume.

The ratio of few prompts is uncertain, and a large one would prevent pruning.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """Prompts, and plans for them from a calibration of the others."""

    held: Sequence[Trajectory]
    known: Calibration
    plans: Simulation

    def losses(self, loss: float) -> Array:
        """Replay the plan with at most this modelled loss, a share of the gain.

        Returns the real losses, the modelled ones, their deviations and the whole gains: (4, prompts).
        """
        plan = self.plans.plan(1 - loss)
        best = np.array([t.finals.max() for t in self.held])
        gains = best - [t.finals.mean() for t in self.held]
        if not plan:
            return np.stack([0 * gains, 0 * gains, 0 * gains, gains])
        kept = [t.finals[survivors(t, plan, self.known)].max() for t in self.held]
        modelled, deviation = self.plans.loss(plan)
        return np.stack([best - kept, modelled * gains, deviation * gains, gains])


def replay_plans(
    trajectories: Sequence[Trajectory], generator: GeneratorInfo, scorer: ScorerInfo, costs: CostModel, quality: float
) -> ReplayedPlans | None:
    """Replay plans for the best of a field, and return what they keep.

    None for fewer than `FOLDS` prompts, without any gain, and where no plan pays on this device.
    """
    size = min(len(t.finals) for t in trajectories)
    fields = [_first(t, size) for t in trajectories]
    if len(fields) < FOLDS or size < 2:
        return None
    folds = [_fold(fields, fold, generator, scorer, costs) for fold in range(FOLDS)]
    asked = 1 - quality
    at_losses = [np.concatenate([fold.losses(share * asked) for fold in folds], axis=1) for share in LOSSES]
    lost, modelled, deviations, _ = np.sum(at_losses, axis=0)
    if modelled.sum() <= 0:
        return None
    ratio, error = _ratio(lost, modelled)
    error = max(error, float(deviations.sum() / modelled.sum() / np.sqrt(len(fields))))
    made = ReplayedPlans(size, len(fields), quality, 0.0, 0.0, round(ratio, 4), round(error, 4))
    lost, *_, gains = np.concatenate([fold.losses(asked / assumed_ratio(made)) for fold in folds], axis=1)
    share, error = _ratio(lost, gains)
    return replace(made, kept=round(1 - share, 5), kept_error=round(error, 5))


def assumed_ratio(replayed: ReplayedPlans | None) -> float:
    """Return the ratio of real to modelled losses that plans assume.

    It is an upper limit, at most `MAX_RATIO`; 1 if nothing was replayed. A smaller loss than modelled is not relied on:
    the replayed fields have one size, and rare losses are often missing among few prompts.
    """
    if replayed is None:
        return 1.0
    return min(max(replayed.loss_ratio, 1.0) + CONFIDENCE * replayed.loss_ratio_error, MAX_RATIO)


def survivors(trace: Trajectory, plan: Sequence[Checkpoint], known: Calibration) -> list[int]:
    """Return who is left at the end of a race cut by `plan`, by the engine's own rule."""
    live = list(range(len(trace.finals)))
    for cut in plan:
        worth = [_predicted(trace, known, i, cut.at) for i in live]
        live = [live[place] for place in select_survivors(worth, cut)]
    return live


def _predicted(trace: Trajectory, known: Calibration, candidate: int, at: int) -> float:
    """Return the final score predicted after a step."""
    preview, steps = float(trace.previews[at - 1, candidate]), len(trace.previews)
    if trace.embeddings is not None and trace.prompt is not None:
        embedding = trace.embeddings[at - 1, candidate].astype(np.float32)
        estimated = calibration.estimate_embedding(known, embedding, known.sampler, at, steps)
        if estimated is not None:
            preview += float((estimated[0] - embedding) @ trace.prompt)
    return calibration.predict_score(known, preview, trace.guidance_gaps[at - 1, candidate], known.sampler, at, steps)


def _fold(
    fields: Sequence[Trajectory], fold: int, generator: GeneratorInfo, scorer: ScorerInfo, costs: CostModel
) -> _Fold:
    others = [field for place, field in enumerate(fields) if place % FOLDS != fold]
    known = calibration.fit_calibration(others, generator, scorer)
    correlations = calibration.correlations_by_step(known, known.sampler, known.steps)
    plan_input = PlanInput(len(fields[0].finals), 1, known.steps, correlations, costs)
    return _Fold(fields[fold::FOLDS], known, Simulation(plan_input, SIMULATED_SCORES))


def _ratio(parts: Array, wholes: Array) -> tuple[float, float]:
    """Return the ratio of two sums over prompts, and its standard error."""
    whole = float(wholes.sum())
    if whole <= 0:
        return 0.0, 0.0
    ratio = float(parts.sum()) / whole
    return ratio, float(np.sqrt(np.sum((parts - ratio * wholes) ** 2)) / whole)


def _first(trace: Trajectory, size: int) -> Trajectory:
    """Return the trace of the first `size` candidates."""
    embeddings = None if trace.embeddings is None else trace.embeddings[:, :size]
    by_step = (trace.previews[:, :size], trace.guidance_gaps[:, :size])
    return Trajectory(*by_step, trace.finals[:size], embeddings, trace.prompt)
