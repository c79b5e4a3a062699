"""What plans keep of fields that the planner's model does not describe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from app.cli.measuring.calibrate import _replayed
from app.domain import Checkpoint
from app.engine.cost_model import CostModel
from app.engine.pruning import calibration, replay
from app.engine.pruning.planner import PlanInput, plan_checkpoints
from app.engine.pruning.trajectory import Trajectory
from models import calibration_io
from models.protocols import Calibration, ReplayedPlans
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer

pytestmark = pytest.mark.slow

Array = NDArray[np.float64]

GENERATOR, SCORER = FakeGenerator().info, FakeScorer().info
COSTS = CostModel.from_measurements({1: 0.1, 16: 0.8}, {1: 0.01}, {1: 0.01})
ERRORS = (2.0, 1.0, 0.6, 0.4, 0.3, 0.2, 0.1, 0.001)
KEPT = ReplayedPlans(16, 192, 0.97, 0.984, 0.006, 1.1, 0.23)


def fields(prompts: int, seed: int, n: int = 8) -> tuple[Array, Array]:
    """Previews (steps, prompts, n) and finals of fields with heavy tails and unequal correlations.

    Errors of previews are Student's t with two degrees of freedom, independent from step to step. Those of a quarter of
    the prompts are six times as large.
    """
    draw = np.random.default_rng(seed)
    finals = draw.standard_normal((prompts, n))
    scales = np.where(draw.random((prompts, 1)) < 0.25, 3.0, 0.5)
    return finals + np.stack([error * scales * draw.standard_t(2, finals.shape) for error in ERRORS]), finals


def traces(prompts: int, seed: int) -> list[Trajectory]:
    previews, finals = fields(prompts, seed)
    return [Trajectory(previews[:, i], np.zeros_like(previews[:, i]), finals[i]) for i in range(prompts)]


@cache
def calibrated(prompts: int, seed: int) -> Calibration:
    seen = traces(prompts, seed)
    known = calibration.fit_calibration(seen, GENERATOR, SCORER)
    return replace(known, replay=replay.replay_plans(seen, GENERATOR, SCORER, COSTS, 0.97))


def planned(known: Calibration, ratio: float | None = None) -> tuple[Checkpoint, ...]:
    correlations = calibration.correlations_by_step(known, known.sampler, known.steps)
    assumed = replay.assumed_ratio(known.replay) if ratio is None else ratio
    return plan_checkpoints(PlanInput(8, 1, known.steps, correlations, COSTS, loss_ratio=assumed), 0.97)


def kept(plan: tuple[Checkpoint, ...], previews: Array, finals: Array) -> float:
    """The share of the gain that a plan keeps; weights of predictions leave their order as it is."""
    live = np.tile(np.arange(finals.shape[1]), (len(finals), 1))
    for cut in plan:
        order = np.argsort(-np.take_along_axis(previews[cut.at - 1], live, axis=1), axis=1)
        live = np.take_along_axis(live, order[:, : cut.keep], axis=1)
    means = finals.mean(axis=1)
    left = np.take_along_axis(finals, live, axis=1).max(axis=1) - means
    return float(left.sum() / (finals.max(axis=1) - means).sum())


def test_plans_keep_the_quality_on_fresh_fields_with_tails_and_unequal_correlations() -> None:
    """On average over calibrations: some see few of the prompts that are hard to predict."""
    fresh = fields(8000, 99)
    known = [calibrated(48, seed) for seed in range(4)]
    plans, trusting = [planned(each) for each in known], [planned(each, 1.0) for each in known]
    assert all(plans)
    assert np.mean([kept(plan, *fresh) for plan in plans]) >= 0.97
    assert np.mean([kept(plan, *fresh) for plan in trusting]) < 0.965, "the model alone is not enough"


def test_what_is_replayed_is_what_a_plan_of_other_prompts_keeps() -> None:
    found = calibrated(48, 0).replay
    assert found is not None
    assert (found.candidates, found.prompts, found.quality) == (8, 48, 0.97)
    assert 0 < found.kept <= 1
    assert 0.3 < found.loss_ratio < 3
    assert found.loss_ratio_error > 0.2, "48 prompts say little"
    known = calibrated(12, 0).replay
    assert known is not None
    assert known.loss_ratio_error > found.loss_ratio_error
    assert replay.assumed_ratio(known) <= replay.MAX_RATIO


def test_survivors_are_those_of_the_engine() -> None:
    trace = traces(1, 5)[0]
    known = Calibration("1", "1", "ddim", 8, 1.0, (1.0,) * 8, (1.0,) * 8, (1.0,) * 8, (0.0,) * 8)
    left = replay.survivors(trace, (Checkpoint(2, 5), Checkpoint(6), Checkpoint(7, 2)), known)
    first = sorted(np.argsort(-trace.previews[1])[:5])
    assert left == sorted(sorted(first, key=lambda i: -trace.previews[6, i])[:2])


@pytest.mark.parametrize(
    ("ratio", "error", "assumed"), [(1.1, 0.2, 1.429), (0.4, 0.1, 1.1645), (1.0, 0.0, 1.0), (0.0, 9.0, 3.0)]
)
def test_plans_assume_the_upper_limit_of_the_ratio_within_bounds(ratio: float, error: float, assumed: float) -> None:
    known = replace(KEPT, loss_ratio=ratio, loss_ratio_error=error)
    assert replay.assumed_ratio(known) == pytest.approx(assumed)
    assert ("the maximum: measure more prompts" in _replayed(known)) == (assumed == 3.0)
    assert "plans for the best of 16 keep 0.984 (standard error 0.006)" in _replayed(known)


def test_a_larger_ratio_is_planned_as_a_higher_quality() -> None:
    correlations = (0.4, 0.6, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
    asked = PlanInput(8, 1, 8, correlations, COSTS)
    careful = plan_checkpoints(replace(asked, loss_ratio=3.0), 0.94)
    assert careful == plan_checkpoints(asked, 0.98) != plan_checkpoints(asked, 0.94)
    assert careful, "a doubtful model still prunes"


def test_nothing_is_replayed_where_nothing_can_be_said() -> None:
    assert replay.assumed_ratio(None) == 1.0
    assert replay.replay_plans(traces(5, 0), GENERATOR, SCORER, COSTS, 0.97) is None
    alike = [Trajectory(np.zeros((8, 8)), np.zeros((8, 8)), np.zeros(8)) for _ in range(12)]
    assert replay.replay_plans(alike, GENERATOR, SCORER, COSTS, 0.97) is None
    dear = CostModel.from_measurements({1: 0.1}, {1: 9.0}, {1: 0.1})
    assert replay.replay_plans(traces(12, 0), GENERATOR, SCORER, dear, 0.97) is None
    assert "not replayed" in _replayed(None)


def test_a_calibration_file_keeps_what_was_replayed_and_files_without_it_are_read() -> None:
    known = Calibration("1", "1", "ddim", 2, 1.0, (0.5, 1.0), (0.5, 1.0), (1.0, 1.0), (0.0, 0.0), replay=KEPT)
    stored = json.loads(json.dumps(calibration_io.to_json(known)))
    assert calibration_io.from_json(stored) == known
    earlier = {name: part for name, part in stored.items() if name != "replay"}
    assert calibration_io.from_json(earlier) == replace(known, replay=None)
    steered = replace(known, steered=replace(known, steering=(0.05, 0.15, 0.8)))
    assert calibration_io.from_json(json.loads(json.dumps(calibration_io.to_json(steered)))) == steered
    kept = asdict(KEPT)
    for broken in (
        3,
        {},
        kept | {"more": 1},
        kept | {"loss_ratio": -1.0},
        kept | {"loss_ratio": None},
        kept | {"loss_ratio_error": float("inf")},
        kept | {"kept": "0.97"},
        kept | {"prompts": 0},
        kept | {"candidates": 2.5},
        kept | {"quality": 1.0},
    ):
        with pytest.raises(ValueError, match="calibration"):
            calibration_io.from_json({**stored, "replay": broken})
