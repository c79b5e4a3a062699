"""The formula of ensembles.

What each term does, and what must not change the result.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.ranking import ensemble

SCORES = st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=24)


def values(rows: list[list[float]]) -> dict[str, NDArray[np.float64]]:
    columns = np.asarray(rows, np.float64).T
    return dict(zip("abc", columns, strict=True))


def combined(
    scores: dict[str, NDArray[np.float64]], weights: tuple[float, ...] = (1, 1, 1), uncertainty: float = 0.5
) -> NDArray[np.float64]:
    count = len(next(iter(scores.values())))
    return ensemble.combine(scores, dict(zip("abc", weights, strict=True)), uncertainty, range(count))


@given(SCORES, st.randoms(use_true_random=False))
def test_neither_the_order_of_candidates_nor_of_members_matters(rows: list[list[float]], random: Random) -> None:
    expected = combined(values(rows), (1, 2, 0.5))
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_allclose(combined(values([rows[i] for i in order]), (1, 2, 0.5)), expected[order], atol=1e-9)
    scores = values(rows)
    turned = ensemble.combine({name: scores[name] for name in "cba"}, {"a": 1, "b": 2, "c": 0.5}, 0.5, range(len(rows)))
    np.testing.assert_allclose(turned, expected, atol=1e-9)


@given(SCORES, st.floats(0, 3))
def test_one_member_of_positive_weight_keeps_its_own_order(rows: list[list[float]], uncertainty: float) -> None:
    scores = values(rows)
    found = combined(scores, (0, 1, 0), uncertainty)
    order = np.argsort(-scores["b"], kind="stable")
    assert (np.diff(found[order]) <= 1e-12).all()


@given(SCORES, st.floats(0.01, 100), st.floats(-10, 10))
def test_a_members_unit_and_origin_do_not_matter(rows: list[list[float]], unit: float, origin: float) -> None:
    rounded = [[round(x, 3) for x in row] for row in rows]
    scores = values(rounded)
    moved = {**scores, "b": scores["b"] * unit + origin}
    np.testing.assert_allclose(combined(moved), combined(scores), atol=1e-5)


def test_uncertainty_lowers_what_members_disagree_on() -> None:
    agreed, disputed = [1.0, 1.0, 1.0], [3.0, 0.0, 0.0]
    rows = [agreed, disputed, *[[x, x, x] for x in np.linspace(-1, 0.5, 8)]]
    free, strict = (combined(values(rows), uncertainty=u) for u in (0.0, 2.0))
    assert strict[0] - strict[1] > free[0] - free[1]
    np.testing.assert_allclose(strict[2:].argsort(), free[2:].argsort())


def test_small_fields_use_ranks() -> None:
    rows = [[0.0, 1.0, 0.0], [0.1, 0.0, 0.1], [1000.0, 0.5, 0.2]]
    np.testing.assert_allclose(ensemble.standardise(values(rows)["a"], range(3)), [-1.2247449, 0, 1.2247449])


def test_a_candidate_outside_the_field_is_measured_against_it() -> None:
    scores = {"a": np.asarray([*np.arange(10.0), 4.5]), "b": np.asarray([*np.arange(10.0), np.nan])}
    field = ensemble.judged_by_all(list(scores.values()), range(11))
    assert field == list(range(10))
    found = ensemble.combine(scores, {"a": 1, "b": 1}, 0.5, field)
    assert found[10] == pytest.approx(0.0)
    assert found[9] > found[10] > found[0]
    lost = ensemble.combine({"b": scores["b"]}, {"b": 1}, 0.5, field)
    assert np.isnan(lost[10])


def test_a_constant_member_adds_nothing_and_one_candidate_scores_zero() -> None:
    scores = values([[x, 7.0, x] for x in np.linspace(0, 1, 9)])
    assert (combined(scores).argsort() == np.arange(9)).all()
    assert combined(values([[0.3, 0.2, 0.1]])).tolist() == [0.0]


def test_agreement_is_kendalls_tau_over_pairs() -> None:
    up, down = np.arange(6.0), -np.arange(6.0)
    assert ensemble.agreement([up, up * 3 + 1], range(6)) == pytest.approx(1)
    assert ensemble.agreement([up, down], range(6)) == pytest.approx(-1)
    assert ensemble.agreement([up, up, down], range(6)) == pytest.approx(-1 / 3)
    assert ensemble.agreement([up, np.zeros(6)], range(6)) is None
    assert ensemble.agreement([up, down], range(3)) is None
    swapped = np.asarray([1.0, 0, 2, 3, 4, 5])
    assert ensemble.agreement([up, swapped], range(6)) == pytest.approx(1 - 2 * 1 / 15)
    tied = np.asarray([0.0, 0, 1, 2, 3, 4])
    assert ensemble.agreement([up, tied], range(6)) == pytest.approx(14 / np.sqrt(15 * 14))


def test_chance_agreement_is_the_deviation_of_random_orders() -> None:
    random = np.random.default_rng(1)
    taus = [ensemble.agreement([random.random(16), random.random(16)], range(16)) for _ in range(400)]
    assert np.std(np.asarray(taus, float)) == pytest.approx(ensemble.chance_agreement(16), rel=0.1)
