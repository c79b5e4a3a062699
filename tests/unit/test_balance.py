"""Balanced selection: quotas, picks and their cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import Balance, Ranking, Score
from app.engine.ranking.balance import BalancedField, mean_cost, quotas
from app.engine.ranking.placement import place_candidates
from app.imaging.provenance.receipts import order_problems
from models.protocols import ScorerInfo

SCORER = ScorerInfo("s", "1", 8, 64, 77, 100.0, "cpu", 0.0, 0.1)
NAN = float("nan")


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(0, 40))
def test_quotas_sum_to_n_and_are_nearest(parts: list[int], n: int) -> None:
    shares = [part / sum(parts) for part in parts]
    found = quotas(shares, n)
    assert sum(found) == n
    assert all(abs(quota - share * n) < 1 for quota, share in zip(found, shares, strict=True))


def test_the_best_of_each_value_are_picked_and_sorted_by_score() -> None:
    field = BalancedField((0.5, 0.5), (0, 0, 0, 1, 1, -1))
    scores = [0.9, 0.8, 0.7, 0.2, 0.3, 0.6]
    assert field.select(scores, range(6), 4) == [0, 1, 4, 3]
    assert field.select(scores, range(6), 2) == [0, 4]
    assert mean_cost(scores, [0, 1, 4, 3], 4) == pytest.approx((0.9 + 0.8 + 0.7 + 0.6 - 0.9 - 0.8 - 0.3 - 0.2) / 4)
    assert field.counts([0, 1, 4, 3, 5]) == [2, 2]


def test_what_a_value_lacks_is_filled_by_the_best_others() -> None:
    field = BalancedField((0.75, 0.25), (1, 1, 0, -1))
    assert field.select([0.4, 0.9, 0.1, 0.5], range(4), 4) == [1, 3, 0, 2]
    assert field.select([NAN, 0.9, 0.1, 0.5], range(4), 4) == [1, 3, 2], "an image without a score is never returned"
    assert field.select([0.4, 0.9], [2, 3], 2) == [1, 0], "classes are by index, not by place"
    assert mean_cost([NAN], [], 3) == 0


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(-1, 2)), min_size=1, max_size=20), st.integers(1, 20))
def test_no_other_choice_within_the_quotas_is_better(images: list[tuple[float, int]], n: int) -> None:
    scores, classes = [score for score, _ in images], tuple(value for _, value in images)
    field = BalancedField((0.2, 0.3, 0.5), classes)
    picks = field.select(scores, range(len(images)), n)
    assert len(picks) == len(set(picks)) == min(n, len(images))
    assert [scores[p] for p in picks] == sorted((scores[p] for p in picks), reverse=True)
    wanted = quotas(field.shares, len(picks))
    for value, quota in enumerate(wanted):
        inside = sorted((scores[i] for i in range(len(images)) if classes[i] == value), reverse=True)
        got = sorted((scores[p] for p in picks if classes[p] == value), reverse=True)
        assert len(got) >= min(quota, len(inside))
        assert got == inside[: len(got)], "the best of each value"
    assert mean_cost(scores, picks, n) >= -1e-12


def test_placement_keeps_the_limits_of_the_ranking() -> None:
    scores = [Score(s, s, 0.0) for s in (0.9, 0.8, 0.2, 0.1)]
    vectors = np.eye(4, 8, dtype=np.float32)
    ranking = Ranking(min_score=0.15, balance=Balance("a", (("x", 0.5), ("y", 0.5))))
    field = BalancedField((0.5, 0.5), (0, 0, 1, 1))
    placed = place_candidates(scores, vectors, [0, 1, 2, 3], ranking, 2, SCORER, balanced=field)
    assert placed.returned == (0, 2)
    assert place_candidates(scores, vectors, [0, 1, 2, 3], ranking, 4, SCORER, balanced=field).returned == (0, 1, 2)
    assert placed.margin == pytest.approx(0.1), "the margin stays that of the field"


def test_a_receipt_of_a_balanced_ranking_holds() -> None:
    common: dict[str, Any] = {"pruned_at_step": None, "failed": False, "flags": [], "flagged": None}
    ranked: list[dict[str, Any]] = [{"index": 0, "rank": 1, "score": 0.9}, {"index": 1, "rank": None, "score": 0.8}]
    ranked.append({"index": 2, "rank": 2, "score": 0.2})
    ranking = {"diversity": 0, "scorers": [], "veto": [], "min_score": None, "balance": {"attribute": "a"}}
    claims: dict[str, Any] = {
        "candidates": [{**common, **c} for c in ranked],
        "ranking": ranking,
        "n": 2,
        "safety": "off",
    }
    assert not order_problems(claims)
    assert order_problems({**claims, "ranking": {**ranking, "balance": None}})
