"""Rankings by where two things are, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.protocols import Models
from models.scorers.layout import LayoutScorer
from models.synthetic.scorer import FakeScorer
from tests.api.kit import is_problem, running
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


def test_a_layout_scorer_ranks_prompts_with_positions_and_is_left_out_of_others(tmp_path: Path) -> None:
    member = LayoutScorer(FakeScorer(), id="layout:fake")
    asked = {"n_candidates": 6, "n": 6, "pruning": "off", "ranking": {"scorers": [{"name": "layout:fake"}]}}
    with running(tmp_path, load=lambda: Models(InstrumentedGenerator(), FakeScorer(), members=(member,))) as house:
        made = house.post(json=asked | {"prompt": "a red cube above a blue ball"}).json()
        plain = house.post(json=asked | {"prompt": "a red cube"}).json()
        pruned = house.post(
            json=asked | {"prompt": "a red cube above a blue ball", "n": 5, "pruning": [{"at": 1, "keep": 5}]}
        )
        seen = house.post(json=asked | {"prompt": "a red cube above a blue ball", "previews": 2})
        kept = house.post(f"/v1/generations/{made['id']}/rerank", json={}).json()
        again = house.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": "a red cube"}})
        is_problem(again, 422, "invalid_request")
    scores = [one["scores"]["layout:fake"] for one in made["data"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 6
    (left,) = [w for w in plain["warnings"] if w["code"] == "scorer_left_out"]
    assert (left["scorer"], left["reason"]) == ("layout:fake", "no_positions")
    assert "A to the left of B" in left["detail"]
    assert [*codes(made), *codes(kept)] == []
    assert codes(seen.json()) == [], "previews prune nothing"
    assert "position_in_prompt" in codes(pruned.json()), "the main scorer prunes without seeing positions"


def test_the_first_ranking_of_a_light_scorer_sees_every_candidate(tmp_path: Path) -> None:
    """A dear scorer would see at most eight."""
    member = LayoutScorer(FakeScorer(), id="layout:fake")
    asked = {"prompt": "a red cube above a blue ball", "n_candidates": 12, "pruning": "off"}
    with running(tmp_path, load=lambda: Models(InstrumentedGenerator(), FakeScorer(), members=(member,))) as house:
        made = house.post(json=asked | {"ranking": {"scorers": [{"name": "layout:fake"}]}}).json()
    assert all("layout:fake" in one["scores"] for one in made["candidates"])
    assert None not in [one["score"] for one in made["candidates"]]
