from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.pruning import calibration, wave_gain
from app.engine.pruning.trajectory import Trajectory
from models import calibration_io
from models.protocols.guards import ArtefactLimits
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer

pytestmark = pytest.mark.slow

GENERATOR, SCORER = FakeGenerator().info, FakeScorer().info


def traces(
    noise: tuple[float, ...] = (1.0, 0.3, 0.05), gap_share: float = 0.0, prompts: int = 40, seed: int = 3
) -> list[Trajectory]:
    """Fields whose previews are the final score with less noise at each step; the gap tells of that noise."""
    draw = np.random.default_rng(seed)
    made = []
    for prompt in range(prompts):
        finals = draw.normal(0.3 + 0.1 * prompt, 1.0, 16)
        errors = [draw.normal(0, s, 16) for s in noise]
        gaps = [gap_share * e + draw.normal(0, 0.01, 16) for e in errors]
        made.append(Trajectory(np.stack([finals + e for e in errors]), np.stack(gaps), finals))
    return made


def test_later_previews_know_more() -> None:
    made = calibration.fit_calibration(traces(), GENERATOR, SCORER)
    assert made.steps == 3
    assert list(made.spearman) == sorted(made.spearman)
    assert made.spearman[0] == pytest.approx(0.69, abs=0.06)
    assert made.correlation == pytest.approx((0.63, 0.95, 0.999), abs=0.07)
    assert made.matches(GENERATOR, SCORER)


@pytest.mark.slow
def test_few_prompts_are_trusted_less_and_many_for_what_they_say() -> None:
    true = 1 / np.sqrt(1 + 1.0**2)

    def known(prompts: int, seed: int) -> float:
        return calibration.fit_calibration(traces((1.0,), prompts=prompts, seed=seed), GENERATOR, SCORER).correlation[0]

    few = np.array([known(24, seed) for seed in range(20)])
    assert (few > true).mean() < 0.4
    assert few.mean() < known(600, 0) == pytest.approx(true, abs=0.04)


def test_a_gap_that_tells_of_the_error_corrects_it() -> None:
    plain = calibration.fit_calibration(traces(), GENERATOR, SCORER)
    told = calibration.fit_calibration(traces(gap_share=1.0), GENERATOR, SCORER)
    assert told.correlation[0] > plain.correlation[0] + 0.2
    assert told.gap_weight[0] < -0.5
    low, high = (calibration.predict_score(told, 0.5, gap, "ddim", 1, 3) for gap in (0.2, 0.0))
    assert low < high


def test_other_schedules_are_read_by_the_share_that_is_done() -> None:
    made = calibration.fit_calibration(traces(), GENERATOR, SCORER)
    assert calibration.correlations_by_step(made, "ddim", 3) == pytest.approx(made.correlation, abs=2e-4)
    twelve = calibration.correlations_by_step(made, "ddim", 12)
    assert len(twelve) == 12
    assert twelve[7] == pytest.approx(made.correlation[1])
    assert list(twelve) == sorted(twelve)
    assert calibration.correlations_by_step(made, "euler", 1) == pytest.approx((made.correlation[2],), abs=2e-4)


def test_samplers_that_space_their_steps_otherwise_are_read_by_the_time_that_is_done() -> None:
    noise = tuple(1 / (step + 1) for step in range(16))
    made = calibration.fit_calibration(traces(noise), GENERATOR, SCORER)
    even, quadratic = (calibration.correlations_by_step(made, sampler, 16) for sampler in ("ddim", "ddim_quadratic"))
    assert quadratic[7] == pytest.approx(even[11], abs=1e-4)
    assert quadratic[15] == even[15]
    assert all(q >= e for q, e in zip(quadratic, even, strict=True))
    back = calibration.correlations_by_step(replace(made, sampler="ddim_quadratic"), "ddim_quadratic", 16)
    assert back == pytest.approx(even, abs=1e-4)


def test_without_a_calibration_the_preview_stands() -> None:
    assert calibration.predict_score(None, 0.3, 9.0, "ddim", 1, 8) == 0.3


def test_json_round_trip_and_refusal() -> None:
    made = calibration.fit_calibration(traces(), GENERATOR, SCORER)
    stored = json.loads(json.dumps(calibration_io.to_json(made)))
    assert calibration_io.from_json(stored) == made
    limited = replace(made, artefacts=ArtefactLimits(noise=0.5))
    assert calibration_io.from_json(json.loads(json.dumps(calibration_io.to_json(limited)))) == limited
    for broken in (
        {},
        {**stored, "format": 9},
        {**stored, "steps": 2},
        {**stored, "guidance_scale": "1.5"},
        {**stored, "guidance_scale": None},
        {**stored, "guidance_scale": float("nan")},
        {**stored, "guidance_scale": -1.0},
        {**stored, "extra": 1},
        {**stored, "spearman": "x"},
        {**stored, "artefacts": {"noise": float("nan")}},
        {**stored, "artefacts": {"grain": 1.0}},
        {**stored, "artefacts": 3},
    ):
        with pytest.raises(ValueError, match="calibration"):
            calibration_io.from_json(broken)


def test_too_little_to_fit_from() -> None:
    with pytest.raises(ValueError, match="two prompts"):
        calibration.fit_calibration(traces(prompts=1), GENERATOR, SCORER)
    with pytest.raises(ValueError, match="equal numbers"):
        calibration.fit_calibration([*traces(prompts=2), *traces(noise=(1.0,), prompts=1)], GENERATOR, SCORER)


def test_fields_without_any_spread_are_not_cut() -> None:
    alike = [Trajectory(np.zeros((3, 16)), np.zeros((3, 16)), np.zeros(16)) for _ in range(8)]
    assert calibration.fit_calibration(alike, GENERATOR, SCORER).correlation == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("n", [1, 3])
def test_expected_gain_of_a_wave(n: int) -> None:
    draw = np.random.default_rng(0)
    fields = [draw.standard_normal(16) for _ in range(400)]
    told = np.mean([wave_gain.expected_gain(list(f), [], n, 8) for f in fields])

    def best(field: np.ndarray) -> float:
        return float(np.sort(field)[-n:].mean())

    true = np.mean([best(np.concatenate([f, draw.standard_normal(8)])) - best(f) for f in fields])
    assert told == pytest.approx(true, abs=0.06)


def test_expected_gain_knows_who_can_be_returned() -> None:
    assert wave_gain.expected_gain([0.3], [], 1, 8) == float("inf")
    assert wave_gain.expected_gain([0.3, 0.3, float("nan")], [], 1, 8) == 0.0
    assert wave_gain.expected_gain([0.3, 0.2], [], 3, 8) == float("inf"), "fewer than are to be returned"
    finished, pruned = [0.1, 0.2], [(0.0, 0.0), (0.05, 0.0), (0.9, 0.0), (float("nan"), 0.0)]
    whole = [*finished, *(score for score, _ in pruned)]
    assert wave_gain.expected_gain(finished, pruned, 1, 4) > wave_gain.expected_gain(whole, [], 1, 4) + 0.5


def test_a_field_known_by_previews_is_as_wide_as_one_that_finished() -> None:
    """Fields of 16, of which 4 finish: foretold scores alone spread less than the scores that they stand for."""
    draw = np.random.default_rng(0)
    known, gains = 0.6, list[tuple[float, float, float]]()
    for _ in range(300):
        finals = draw.standard_normal(16)
        foretold = known * (known * finals + np.sqrt(1 - known**2) * draw.standard_normal(16))
        order = np.argsort(-foretold)
        done, rest = finals[order[:4]].tolist(), order[4:]
        error = float(np.sqrt(1 - known**2))
        true = wave_gain.expected_gain(done, [(float(finals[i]), 0.0) for i in rest], 1, 8)
        told, bare = (
            wave_gain.expected_gain(done, [(float(foretold[i]), e) for i in rest], 1, 8) for e in (error, 0.0)
        )
        gains.append((true, told, bare))
    true, told, bare = np.mean(gains, axis=0)
    assert told == pytest.approx(true, abs=0.06)
    assert bare < true - 0.1


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=30), st.integers(1, 3), st.integers(1, 16))
def test_a_larger_wave_promises_no_less(scores: list[float], n: int, wave: int) -> None:
    some, more = (wave_gain.expected_gain(scores, [], n, w) for w in (wave, wave + 1))
    assert 0 <= some <= more + 1e-9
