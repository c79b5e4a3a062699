"""What the engine's loop does for each device call: counted, since its time adds to every step."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from app.domain import Score
from app.engine.cost_model import CallSeconds
from app.engine.protocols import Finished
from app.engine.ranking import duplicates, scoring
from app.engine.scheduler import Scheduler
from app.engine.state import ActiveGeneration
from models.protocols import Embeddings
from tests.unit.engine_kit import Bench, spec


def test_a_plan_orders_the_rows_of_each_generation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plans = [0], [0]
    steppable, plan = ActiveGeneration.steppable_rows, Scheduler.plan

    def counted(run: ActiveGeneration) -> object:
        asked[0] += 1
        return steppable(run)

    def planned(scheduler: Scheduler) -> object:
        plans[0] += 1
        return plan(scheduler)

    monkeypatch.setattr(ActiveGeneration, "steppable_rows", counted)
    monkeypatch.setattr(Scheduler, "plan", planned)
    bench = Bench()
    bench.submit(*(spec(f"g{i}", n_candidates=8, steps=12) for i in range(4)))
    bench.run()
    assert asked[0] <= 4 * plans[0], "not once for each choice that is made"


def test_costs_are_worked_out_again_only_when_a_call_was_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates = [0]
    estimate = Scheduler._estimate

    def counted(scheduler: Scheduler) -> None:
        estimates[0] += 1
        estimate(scheduler)

    ticks = count()
    bench = Bench(clock=lambda: next(ticks) / 1024)
    bench.core.measure()
    monkeypatch.setattr(Scheduler, "_estimate", counted)
    bench.submit(*(spec(f"g{i}", n_candidates=16, steps=40) for i in range(4)))
    bench.run()
    assert bench.core.denoiser_calls > 60
    assert estimates[0] <= 8, "every call takes as long as the last one"


def test_a_call_tells_whether_it_changed_what_is_known() -> None:
    known = CallSeconds({1: 1.0})
    assert not known.note(4, 3.0), "the first call of a size may include compilation"
    assert known.note(4, 3.5), "now the size is known"
    assert known.known == {1: 1.0, 4: 3.0}
    assert known.estimate(2) == pytest.approx(1 + 2 / 3)
    assert not known.note(4, 3.2)
    assert known.note(4, 2.0)
    assert known.known == {1: 1.0, 4: 2.0}
    assert known.estimate(2) == pytest.approx(1 + 1 / 3)


def test_rows_of_one_generation_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    score = scoring.score_images

    def counted(images: Embeddings, query: scoring.Query) -> list[Score]:
        scored.append(len(images))
        return score(images, query)

    monkeypatch.setattr("app.engine.members.rows.scoring.score_images", counted)
    bench = Bench()
    bench.submit(spec("large", n_candidates=16), spec("small", n_candidates=2))
    bench.run()
    assert sum(scored) == 18
    assert len(scored) <= 4


def test_progress_rises_by_each_finished_candidate() -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=4, steps=6))
    bench.run()
    told = [u.progress for u in bench.updates["gen_a"] if isinstance(u, Finished)]
    assert told == [(4 * 6 + done) / (4 * 7) for done in (1, 2, 3, 4)]


def test_what_another_generation_does_is_no_work_of_this_one() -> None:
    bench = Bench()
    bench.submit(spec("a", n_candidates=3, steps=6), spec("b", n_candidates=5, steps=9))
    bench.run()
    for name, rows, steps in (("a", 3, 6), ("b", 5, 9)):
        work = bench.outcome(name).work
        assert (work.rows_stepped, work.rows_unpruned, work.decodes) == (rows * steps, rows * steps, rows)


def test_a_field_of_one_is_not_compared_with_itself() -> None:
    class Untouched(np.ndarray[Any, Any]):
        def __matmul__(self, other: object) -> Any:
            raise AssertionError("no cosines are needed")

    alone = np.ones((1, 4), np.float32).view(Untouched)
    assert duplicates.find_duplicates(alone, [0]) == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_order_of_scores_is_that_of_a_stable_sort(dtype: Any) -> None:
    random = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 40):
        scores = np.round(random.normal(size=size), 1).astype(dtype)
        scores[random.random(size) < 0.2] = np.nan
        scores[random.random(size) < 0.1] = -np.inf
        expected = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable").tolist()
        assert scoring.rank_order(scores.tolist()) == expected
