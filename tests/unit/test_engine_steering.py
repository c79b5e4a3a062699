"""Steered rows in the engine, on the synthetic models: results, shared calls, memory, cancels, work and costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import Checkpoint, Negative, Ranking, Reference, Taste
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import STEERING_COST, CostModel
from app.engine.protocols import Cancelled, Failed, Outcome
from app.engine.pruning.planner import PlanInput
from app.engine.ranking.scoring import build_query, score_images
from app.engine.steering.calls import steering_target
from app.errors import NoSteering, OutOfDeviceMemory
from models.protocols import Models
from models.protocols.steering import SteeringSettings, SteerRow
from models.synthetic.generator import FakeGenerator, FakeLatent
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering, score_gradient
from models.synthetic.thumbnails import Array
from tests.synthetic_models import InstrumentedSteering
from tests.unit.engine_kit import Bench, alone, spec

STEERED = SteeringSettings(0.1)
STEPS = 10


def made(**changes: Any) -> Outcome:
    return alone(spec(**{"steps": STEPS, "n": 4, **changes}))


def mean_score(outcome: Outcome) -> float:
    return float(np.mean([c.score.score for c in outcome.candidates if c.score is not None]))


def same(one: Outcome, other: Outcome) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("embeddings", "latents")) and all(
        np.array_equal(one.images[i], other.images[i]) for i in one.images
    )


def test_steering_raises_the_score_and_more_raises_it_more() -> None:
    scores = [mean_score(made(steering=s and SteeringSettings(s))) for s in (None, 0.02, 0.05, 0.1)]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


def test_rows_are_steered_within_the_window_and_the_work_is_counted() -> None:
    outcome = made(steering=STEERED)
    steered = STEERED.steps("ddim", STEPS, STEPS)
    assert steered == (2, 3, 4, 5, 6, 7, 8)
    assert outcome.work.rows_steered == 4 * len(steered)
    assert made().work.rows_steered == 0


@pytest.mark.parametrize(
    ("start", "end", "steps"), [(0.0, 1.0, tuple(range(1, 10))), (0.5, 0.6, (6,)), (0.96, 1.0, ()), (0.3, 0.3, ())]
)
def test_the_window_holds_the_middles_of_steps_and_never_the_last(
    start: float, end: float, steps: tuple[int, ...]
) -> None:
    assert SteeringSettings(0.05, start, end).steps("ddim", 10, 10) == steps


def test_steps_of_a_started_row_count_from_its_first_one() -> None:
    assert SteeringSettings(0.05).steps("ddim", 10, 4) == (1, 2)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([None, 0.03, 0.1]), min_size=2, max_size=4),
    st.integers(1, 5),
    st.booleans(),
)
def test_a_row_depends_on_nothing_of_its_company(scales: list[float | None], n: int, deterministic: bool) -> None:
    specs = [
        spec(
            f"gen_{i}",
            steps=STEPS,
            n_candidates=n,
            n=n,
            seed=100 * i,
            steering=scale and SteeringSettings(scale),
            deterministic=deterministic,
        )
        for i, scale in enumerate(scales)
    ]
    bench = Bench(EngineConfig(live_rows=64))
    bench.submit(*specs)
    bench.run()
    for one in specs:
        assert same(bench.outcome(one.id), alone(one))


def test_unsteered_rows_beside_steered_ones_keep_their_bits() -> None:
    plain, steered = spec("plain", steps=STEPS, n=4), spec("steered", steps=STEPS, n=4, steering=STEERED)
    bench = Bench()
    bench.submit(plain, steered)
    bench.run()
    assert same(bench.outcome("plain"), alone(plain))
    assert not same(bench.outcome("steered"), bench.outcome("plain"))
    assert sum(bench.steering.calls) == 4 * len(steered.steered_steps), "only steered rows are in steering calls"


def test_deterministic_rows_are_padded() -> None:
    bench = Bench()
    bench.submit(spec(steps=STEPS, n_candidates=3, steering=STEERED, deterministic=True))
    bench.run()
    assert set(bench.steering.sizes) == {EngineConfig().deterministic_rows}


def test_steered_rows_stop_at_checkpoints_after_their_move() -> None:
    outcome = made(n_candidates=6, n=2, steering=STEERED, checkpoints=(Checkpoint(4, 2),))
    assert sum(c.pruned_at_step == 4 for c in outcome.candidates) == 4
    assert outcome.work.rows_steered == 6 * 3 + 2 * 4


def test_memory_that_is_short_makes_steering_calls_smaller() -> None:
    bench = Bench(steering=InstrumentedSteering(max_rows=3))
    bench.submit(spec(steps=STEPS, n_candidates=8, n=8, steering=STEERED))
    bench.run()
    assert same(bench.outcome(), alone(spec(steps=STEPS, n_candidates=8, n=8, steering=STEERED)))
    assert max(bench.steering.calls) <= 3
    assert max(bench.generator.sizes) == 8, "the denoiser's calls are not made smaller"


def test_memory_that_holds_no_row_fails_the_generation_only() -> None:
    bench = Bench(steering=InstrumentedSteering(max_rows=0))
    bench.submit(spec("plain", steps=STEPS), spec("steered", steps=STEPS, steering=STEERED))
    bench.run()
    end = bench.ends("steered")[0]
    assert isinstance(end, Failed)
    assert isinstance(end.error, OutOfDeviceMemory)
    bench.outcome("plain")


def test_a_cancel_between_step_and_steering_drops_the_rows() -> None:
    bench = Bench()
    bench.submit(spec(steps=STEPS, steering=STEERED))
    while not bench.steering.calls:
        bench.tick()
    bench.core.cancel("gen_a")
    bench.run()
    calls = len(bench.steering.calls)
    assert isinstance(bench.ends("gen_a")[0], Cancelled)
    bench.run()
    assert len(bench.steering.calls) == calls


@pytest.mark.parametrize("steering", [None, InstrumentedSteering(problem="no gradient here")])
def test_models_without_gradients_refuse(steering: InstrumentedSteering | None) -> None:
    core = EngineCore(Models(FakeGenerator(), FakeScorer(), steering=steering), EngineConfig(), clock=lambda: 0.0)
    core.submit(spec(steps=STEPS, steering=STEERED), 0.0)
    ends = [u for _ in range(3) for _, u in core.tick() if isinstance(u, Failed)]
    assert isinstance(ends[0].error, NoSteering)
    assert ends[0].error.status == 422


def test_a_row_without_a_gradient_keeps_its_latent() -> None:
    query = build_query(Ranking(), np.zeros(13, np.float32), np.zeros((0, 13), np.float32), [])
    schedule = FakeGenerator().schedule("ddim", STEPS, 64, 64)
    still = FakeLatent(np.ones((3, 8, 8), np.float32), np.ones((3, 8, 8), np.float32))
    unsound = FakeLatent(still.x, np.full((3, 8, 8), np.nan, np.float32))
    aim = steering_target(query)
    for latent in (still, unsound):
        assert FakeSteering().steer([SteerRow(latent, schedule, 3, 1, aim, 0.1)], 1)[0] is latent


def full_ranking() -> tuple[Ranking, Any]:
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((6, 13)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    references = (Reference(0.7, tuple(vectors[3])), Reference(-0.4, tuple(vectors[4])))
    taste = Taste("p", 1.0, 0.2, 0.1, tuple(vectors[5]))
    ranking = Ranking(0.8, (Negative("a"), Negative("b", 2.0)), references=references, taste=taste)
    return ranking, build_query(ranking, vectors[0], vectors[1:3], [1.0, 2.0])


def test_the_gradient_is_that_of_the_score_with_negatives_references_and_taste() -> None:
    _, query = full_ranking()
    x0 = np.random.default_rng(2).standard_normal((3, 5, 7)) * 0.5

    def score(at: Array) -> float:
        halves = [np.array_split(np.arange(side * 8) // 8, 2) for side in at.shape[1:]]
        cells = np.tanh(at)
        colours = [cells[:, rows][:, :, columns].mean(axis=(1, 2)) for rows in halves[0] for columns in halves[1]]
        vector = np.append(np.stack(colours, axis=1).reshape(-1), 0.1)
        return score_images((vector / np.linalg.norm(vector)).astype(np.float64)[None], query)[0].score

    slope = score_gradient(x0, steering_target(query))
    for place in [(0, 0, 0), (1, 2, 3), (2, 4, 6)]:
        moved = np.zeros_like(x0)
        moved[place] = 1e-3
        assert slope[place] == pytest.approx((score(x0 + moved) - score(x0 - moved)) / 2e-3, abs=2e-5)


def test_costs_of_steering_are_assumed_then_learned() -> None:
    plain = CostModel.from_measurements({1: 0.1, 8: 0.4}, {1: 0.02, 8: 0.1}, {1: 0.02, 8: 0.1})
    assert plain.steers(8) == pytest.approx(STEERING_COST * 0.1)
    known = CostModel.from_measurements({1: 0.1, 8: 0.4}, {8: 0.1}, {8: 0.1}, {8: 0.2})
    assert known.steers(8) == pytest.approx(0.2)
    assert known.moved(plain)
    assert known.steering_factor(10, 5) == pytest.approx(1 + 5 * 0.2 / (10 * 0.4 + 0.1))
    assert known.steering_factor(10, 0) == 1.0
    asked = PlanInput(8, 1, 10, (0.9,) * 10, known, steered=(2, 3, 8))
    unsteered = PlanInput(8, 1, 10, (0.9,) * 10, known)
    assert asked.device_seconds(()) - unsteered.device_seconds(()) == pytest.approx(0.6)
    cut = (Checkpoint(5, 4),)
    assert asked.device_seconds(cut) - unsteered.device_seconds(cut) == pytest.approx(0.4 + known.steers(4))


def test_the_engine_learns_the_cost_of_steering_and_its_pace_stays_that_of_unsteered_rows() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    bench = Bench(clock=clock)
    bench.core.measure()
    bench.submit(spec(steps=STEPS, guidance_scale=2.0, n_candidates=8, steering=STEERED))
    bench.run()
    assert bench.core.costs.steer
    assert bench.core.stage_seconds["steer"] > 0
