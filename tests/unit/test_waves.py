"""Generations in waves, and shadow runs: number of candidates, early stopping, reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.domain import Checkpoint, Ranking, Score, ScorerUse, StopReason
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Outcome, Previewed
from app.engine.scheduler import CallPlan
from app.engine.state import ActiveGeneration, Phase, Row
from app.engine.trajectories import run_generation
from models.protocols import Models, Pixels, ScorerInfo, TextEmbedding
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.engine_kit import Bench, alone, spec

pytestmark = pytest.mark.slow


def test_in_shadow_nobody_is_dropped_and_the_regret_is_told() -> None:
    cuts = (Checkpoint(1, 2),)
    shadowed = alone(spec(n_candidates=12, checkpoints=cuts, shadow=True))
    assert all(c.pruned_at_step is None for c in shadowed.candidates)
    assert shadowed.work.rows_stepped == shadowed.work.rows_unpruned
    pruned = alone(spec(n_candidates=12, checkpoints=cuts))
    finals = [c.score.score for c in shadowed.candidates if c.score]
    kept = max(c.score.score for c in pruned.candidates if c.score and not c.score_is_preview)
    lost = (max(finals) - kept) / (max(finals) - float(np.mean(finals)))
    assert shadowed.regret == pytest.approx(lost, abs=1e-6)
    assert pruned.regret is None


@pytest.mark.parametrize("n", [1, 2])
def test_a_shadow_whose_survivors_cannot_fill_the_answer_has_lost_all(n: int) -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=4, n=n, checkpoints=(Checkpoint(1, n),), shadow=True))
    while not any(isinstance(u, Previewed) for u in bench.updates.get("gen_a", [])):
        bench.tick()
    (run,) = bench.core._scheduler.generations
    bench.tick()
    while not all(r.phase is Phase.FINISH for r in run.rows):
        bench.tick()
    scores = bench.core._score

    def blind(plan: CallPlan, *, preview: bool) -> Pixels:
        pixels = scores(plan, preview=preview)
        first = next(r for r in plan.rows if not r.shadow_pruned)
        assert first.score is not None
        first.score = replace(first.score, score=float("nan"))
        return pixels

    bench.core._score = blind  # type: ignore[method-assign]
    bench.run()
    assert bench.outcome().regret == 1.0


def test_waves_stop_when_little_is_to_be_gained() -> None:
    outcome = alone(spec(n_candidates=200, wave=8))
    made = len(outcome.candidates)
    assert made % 8 == 0
    assert 8 <= made < 200
    assert outcome.stopped is StopReason.GAIN
    assert outcome.work.rows_unpruned == made * 6
    whole = alone(spec(n_candidates=made))
    assert [c.score for c in outcome.candidates] == [c.score for c in whole.candidates]


def test_waves_stop_at_the_cap() -> None:
    ends = {(len(o.candidates), o.stopped) for o in (alone(spec(n_candidates=10, wave=8, seed=s)) for s in range(40))}
    assert ends == {(10, StopReason.CAP), (8, StopReason.GAIN)}
    assert alone(spec(n_candidates=8, wave=8)).stopped is StopReason.CAP


def raced(n: int, *rows: tuple[float, float | None]) -> ActiveGeneration:
    """A wave of 8 that is over: by row the final score, or that of a preview at step 3; foretold .1 less than it."""
    run = ActiveGeneration(spec(n_candidates=64, wave=8, n=n, checkpoints=(Checkpoint(3, 2),)), 0.0)
    for index, (value, pruned) in enumerate(rows):
        row = Row(run, index, index, phase=Phase.DONE if pruned is None else Phase.PRUNED)
        row.score = Score(value, value, 0.0)
        row.predicted_scores = {3: value - 0.1 if pruned is None else pruned}
        row.pruned_at = None if pruned is None else 3
        run.rows.append(row)
    return run


def test_a_preview_that_flatters_is_not_the_best_so_far() -> None:
    rows = [(0.30, None), (0.31, None), *((9.0, 0.2 + 0.01 * i) for i in range(6))]
    assert raced(1, *rows).needs_wave(), "the best that finished is a middling one, whatever a preview scored"
    assert not raced(1, (0.9, None), *rows[1:]).needs_wave()


def test_the_pruned_are_brought_to_the_level_of_those_who_finished() -> None:
    run = raced(1, (0.3, None), (0.5, None), (9.0, 0.15), (9.0, 0.05))
    assert run.predicted_finals(run.rows[:2]) == [pytest.approx((0.25, 0.0)), pytest.approx((0.15, 0.0))]
    run.rows[0].predicted_scores = {3: 0.0}
    assert run.predicted_finals(run.rows[:2])[0] == pytest.approx((0.35, 0.2 / np.sqrt(2)))
    run.rows[1].predicted_scores = {3: float("nan")}
    assert run.predicted_finals(run.rows[:2])[0] == pytest.approx((0.45, 0.0)), (
        "a preview that has no score tells nothing"
    )


def test_waves_weigh_the_mean_of_all_that_are_returned() -> None:
    rows = [(0.9, None), (0.2, None), *((9.0, 0.1 * i) for i in range(4))]
    assert not raced(1, *rows).needs_wave()
    assert raced(2, *rows).needs_wave()


class Contrary(FakeScorer):
    """Puts last what the main scorer puts first."""

    @property
    def info(self) -> ScorerInfo:
        return replace(super().info, id="contrary")

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [replace(each, vector=-each.vector) for each in super().embed_texts(texts)]


class Silent(Contrary):
    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        raise RuntimeError("no tokenizer")


def waved(member: FakeScorer, weights: tuple[float, float], seed: int = 7, n: int = 1) -> Outcome:
    uses = tuple(ScorerUse(name, weight) for name, weight in zip(("fake", "contrary"), weights, strict=True))
    core = EngineCore(Models(InstrumentedGenerator(), FakeScorer(), members=(member,)), EngineConfig())
    return run_generation(core, spec(n_candidates=200, wave=8, n=n, seed=seed, ranking=Ranking(scorers=uses)))


def made(outcome: Outcome) -> int:
    return len(outcome.candidates)


def test_waves_go_on_until_the_ensemble_has_little_to_gain() -> None:
    counts = {}
    for seed in range(0, 400, 40):
        alone_ = alone(spec(n_candidates=200, wave=8, seed=seed))
        other = waved(Contrary(), (0.0, 1.0), seed)
        assert [c.score for c in other.candidates[:8]] == [c.score for c in alone_.candidates[:8]], "a prefix"
        assert made(other) == made(waved(Contrary(), (0.0, 1.0), seed)), "equal seeds, equal waves"
        counts[seed] = made(alone_), made(other)
    assert any(mine != theirs for mine, theirs in counts.values()), "the member's field decides, not the main one's"


def test_waves_follow_the_main_scorer_if_a_member_cannot_read_the_prompt() -> None:
    outcome = waved(Silent(), (1.0, 1.0))
    assert made(outcome) == made(alone(spec(n_candidates=200, wave=8)))
    assert "contrary" in outcome.left_out
