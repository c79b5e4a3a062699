"""The referee.

It never ranks, its opinion is told and counted, and unconfirmed gains are warned of.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from app.service.ranking.referee import MAX_OWNERS, MIN_VERDICTS, Referee, sign_test
from models.errors import ScoringFailed
from models.protocols import Models
from models.synthetic.members import RandomFeatureScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import running
from tests.api.test_ensemble import Counting, Judge
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


def test_the_referee_ranks_nothing_and_tells_its_opinion(tmp_path: Path) -> None:
    referee = Counting()
    with running(tmp_path / "plain") as plain:
        alone = plain.made(n_candidates=9, n=9)
    load = lambda: Models(InstrumentedGenerator(), FakeScorer(), referee=referee)  # noqa: E731
    with running(tmp_path / "with", load=load) as house:
        made = house.made(n_candidates=9, n=9)
        files = [house.client.get(f"/v1/generations/{made['id']}/images/{i}.png") for i in range(9)]
        assert all(file.status_code == 200 for file in files)
        metrics = house.client.get("/metrics").text
        refused = house.post(json={"prompt": "x", "ranking": {"scorers": [{"name": "fake-2"}]}})
        roles = [(one["id"], one["role"]) for one in house.client.get("/v1/models").json()["scorers"]]
    assert [(one["index"], one["score"]) for one in made["data"]] == [(o["index"], o["score"]) for o in alone["data"]]
    assert made["data"][0]["scores"] == {"fake": made["data"][0]["score"]}
    assert sum(referee.images) == 9
    (text,) = RandomFeatureScorer().embed_texts(["a red apple"])
    assert made["referee"]["name"] == "fake-2"
    verdicts = dict(re.findall(r'referee_verdicts_total\{verdict="(\w+)"\} (\d)', metrics))
    better = made["referee"]["winner"] > made["referee"]["median"]
    assert verdicts == {"better": str(int(better)), "equal": "0", "worse": str(int(not better))}
    assert refused.status_code == 422
    assert roles == [("fake", "main"), ("fake-2", "referee")]
    assert np.isfinite(text.vector).all()


def test_a_referee_that_only_scores_sees_a_few_and_may_fail(tmp_path: Path) -> None:
    judge = Judge(remote=True)
    load = lambda: Models(InstrumentedGenerator(), FakeScorer(), referee=judge)  # noqa: E731
    with running(tmp_path, load=load) as house:
        made = house.made(n_candidates=20)
        assert sum(judge.seen) == 5
        assert made["referee"]["name"] == "fake-judge"
        assert len(made["data"]) == 1
        judge.away = ScoringFailed("unreachable", "the endpoint cannot be reached")
        failed = house.made(n_candidates=20)
        single = house.made(n_candidates=1)
    assert failed["referee"] is None
    (told,) = [w for w in failed["warnings"] if w["code"] == "referee_left_out"]
    assert (told["scorer"], told["reason"]) == ("fake-judge", "unreachable")
    assert (single["referee"], single["warnings"]) == (None, [])


def test_the_sign_test_is_exact() -> None:
    assert sign_test(0, 10) == 1
    assert sign_test(10, 10) == pytest.approx(1 / 1024)
    assert sign_test(59, 100) == pytest.approx(0.0443, abs=1e-4)


@pytest.mark.parametrize(("better", "warned"), [(58, True), (59, False), (30, True), (90, False)])
def test_gains_count_as_confirmed_only_against_chance(better: int, warned: bool) -> None:
    referee = Referee(None, None)  # type: ignore[arg-type]
    for number in range(MIN_VERDICTS - 1):
        referee.count("key", float(number < better), 0.5)
    assert referee.unconfirmed("key", "r") == (), "too few verdicts say nothing"
    referee.count("key", 0.0, 0.5)
    referee.count("key", 0.5, 0.5)
    notices = referee.unconfirmed("key", "r")
    assert bool(notices) is warned
    if warned:
        assert notices[0].code == "ranking_gains_not_confirmed"
        assert notices[0].data["better"] == better
        assert notices[0].data["generations"] == MIN_VERDICTS


def test_a_warning_depends_on_the_generations_of_its_own_owner() -> None:
    referee = Referee(None, None)  # type: ignore[arg-type]
    for _ in range(MIN_VERDICTS):
        referee.count("doubtful", 0.0, 0.5)
        referee.count("confirmed", 1.0, 0.5)
    assert referee.unconfirmed("doubtful", "r")[0].data["generations"] == MIN_VERDICTS
    assert referee.unconfirmed("confirmed", "r") == ()
    assert referee.unconfirmed("new", "r") == ()
    assert referee.verdicts == {"better": MIN_VERDICTS, "equal": 0, "worse": MIN_VERDICTS}
    for number in range(MAX_OWNERS):
        referee.count(str(number), 1.0, 0.5)
    assert referee.unconfirmed("doubtful", "r") == (), "only so many owners are kept"
