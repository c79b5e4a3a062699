"""Races that are made in waves, and those that run in shadow: how many candidates, when they stop, what is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.domain import Checkpoint, Stop
from app.engine.client import Previewed
from app.engine.run import Phase
from app.engine.scheduler import Plan
from models.contract import Embeddings, Pixels
from models.fakes import FakeScorer
from tests.unit.engine_kit import Bench, alone, spec


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


def test_a_shadow_whose_survivors_have_no_score_has_lost_all() -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=4, checkpoints=(Checkpoint(1, 1),), shadow=True))
    while not any(isinstance(u, Previewed) for u in bench.updates.get("gen_a", [])):
        bench.tick()
    (run,) = bench.core._scheduler.runs
    bench.tick()
    while not all(r.phase is Phase.FINISH for r in run.rows):
        bench.tick()
    scores = bench.core._score

    def blind(plan: Plan, *, preview: bool) -> Pixels:
        pixels = scores(plan, preview=preview)
        for row in plan.rows:
            if not row.shadowed and row.score is not None:
                row.score = replace(row.score, score=float("nan"))
        return pixels

    bench.core._score = blind  # type: ignore[method-assign]
    bench.run()
    assert bench.outcome().regret == 1.0


def test_waves_stop_when_little_is_to_be_gained() -> None:
    outcome = alone(spec(n_candidates=200, wave=8))
    made = len(outcome.candidates)
    assert made % 8 == 0
    assert 8 <= made < 200
    assert outcome.stopped is Stop.GAIN
    assert outcome.work.rows_unpruned == made * 6
    whole = alone(spec(n_candidates=made))
    assert [c.score for c in outcome.candidates] == [c.score for c in whole.candidates]


def test_waves_stop_at_the_cap() -> None:
    ends = {(len(o.candidates), o.stopped) for o in (alone(spec(n_candidates=10, wave=8, seed=s)) for s in range(40))}
    assert ends == {(10, Stop.CAP), (8, Stop.GAIN)}
    assert alone(spec(n_candidates=8, wave=8)).stopped is Stop.CAP


def test_waves_that_are_pruned_go_on_by_what_finished() -> None:
    """A preview that scored above every finished candidate is no result, and must not end the search."""

    class Flattered(FakeScorer):
        """Scores all previews far above any final picture."""

        def embed_images(self, pixels: Pixels) -> Embeddings:
            found = super().embed_images(pixels)
            return -found if len(found) < 8 else found

    bench = Bench()
    bench.core._scorer = Flattered()
    bench.submit(spec(n_candidates=64, wave=8, n=2, checkpoints=(Checkpoint(3, 2),)))
    bench.run()
    told = bench.outcome()
    finals = [c.score.score for c in told.candidates if c.score and not c.score_is_preview]
    previews = [c.score.score for c in told.candidates if c.score and c.score_is_preview]
    assert min(previews) > max(finals), "the case that makes it hard"
    assert len(told.candidates) > 8
    assert sum(c.rank is not None for c in told.candidates) == 2
