"""Statistics of audits on simulated fields: coverage and error rates of 1,000 simulations each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from app.engine.audits import statistics
from app.engine.audits.statistics import FieldCount

SIMULATIONS = 1000
LEAST_COVERED = 0.95 - 3 * math.sqrt(0.95 * 0.05 / SIMULATIONS)
"""Coverage below which 95 % is refuted."""


def drawn(draw: np.random.Generator, fields: int, odds: float, winners: int = 1, size: int = 8) -> list[FieldCount]:
    """Fields whose winners are drawn one after the other with weights `odds` and 1.

    With one winner, that is the conditional logit.
    """
    found = []
    for share in draw.beta(2, 2, fields):
        attribute = draw.random(size) < share
        keys = np.log(np.where(attribute, odds, 1.0)) + draw.gumbel(size=size)
        won = attribute[np.argsort(-keys)[:winners]]
        found.append(FieldCount(size, int(attribute.sum()), winners, int(won.sum())))
    return found


def conditional(draw: np.random.Generator, fields: int, odds: float, winners: int, size: int) -> list[FieldCount]:
    """Fields whose sets of winners have weights `odds` to the number of winners with the attribute."""
    found = []
    for some in draw.binomial(size, 0.5, fields):
        base = statistics.field_distribution(FieldCount(size, int(some), winners, 0))
        weights = base * odds ** np.arange(len(base))
        found.append(FieldCount(size, int(some), winners, int(draw.choice(len(base), p=weights / weights.sum()))))
    return found


def test_wilson_intervals_are_those_of_the_literature() -> None:
    known = statistics.wilson(81, 263)
    assert (known.low, known.high) == pytest.approx((0.2553, 0.3662), abs=1e-4), "Newcombe 1998, table I"
    assert statistics.wilson(0, 20).low == 0
    assert statistics.wilson(20, 20).high == 1
    assert statistics.wilson(0, 0) == statistics.Interval(None, None, None)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_intervals_of_a_share_cover_it(share: float) -> None:
    counts = np.random.default_rng(1).binomial(100, share, SIMULATIONS)
    spans = [statistics.wilson(int(count), 100) for count in counts]
    covered = [s.low <= share <= s.high for s in spans if s.low is not None and s.high is not None]
    assert sum(covered) / SIMULATIONS >= LEAST_COVERED - 0.01


def test_intervals_cover_a_share_that_differs_from_prompt_to_prompt() -> None:
    """Forty prompts of 16 candidates each: without the design effect, hardly half of the intervals cover."""
    draw = np.random.default_rng(2)
    shares = draw.beta(1.2, 2.8, (SIMULATIONS, 40))
    covered = {True: 0, False: 0}
    for row in draw.binomial(16, shares):
        for clustered in covered:
            span = statistics.clustered_wilson(row, [16] * 40) if clustered else statistics.wilson(row.sum(), 640)
            assert span.low is not None
            assert span.high is not None
            covered[clustered] += span.low <= 0.3 <= span.high
    assert covered[True] / SIMULATIONS >= 0.92
    assert covered[False] / SIMULATIONS < 0.8


@pytest.mark.parametrize("odds", [1.0, 2.5])
def test_intervals_of_the_odds_cover_them_and_the_test_errs_as_stated(odds: float) -> None:
    draw = np.random.default_rng(3)
    found = [statistics.ranking_odds(drawn(draw, 40, odds)) for _ in range(SIMULATIONS)]
    covered = np.mean([each.low <= odds <= (each.high or math.inf) for each in found])
    rejected = np.mean([each.p_value <= 0.05 for each in found])
    assert covered >= LEAST_COVERED
    if odds == 1:
        assert rejected <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
        assert rejected > 0.02, "the test is not idle"
    else:
        assert rejected > 0.6
        known = [math.log(each.odds) for each in found if each.odds]
        assert np.mean(known) == pytest.approx(math.log(odds), abs=0.1)


def test_several_winners_a_field_are_covered_too() -> None:
    draw = np.random.default_rng(4)
    found = [statistics.ranking_odds(conditional(draw, 10, 2.0, 3, 12)) for _ in range(SIMULATIONS)]
    assert np.mean([each.low <= 2.0 <= (each.high or math.inf) for each in found]) >= LEAST_COVERED


def test_the_exact_test_is_that_of_a_poisson_binomial() -> None:
    """Two fields of one winner each with chances 1/4 and 1/2, written out."""
    fields = [FieldCount(4, 1, 1, 1), FieldCount(2, 1, 1, 1)]
    assert np.exp(statistics.log_sum_distribution(fields)) == pytest.approx([3 / 8, 4 / 8, 1 / 8])
    found = statistics.ranking_odds(fields)
    assert found.p_value == pytest.approx(1 / 8)
    assert found.expected == pytest.approx(0.75)
    assert found.observed == 2
    assert (found.odds, found.high) == (None, None), "every field that could was won: no upper bound"
    none = statistics.ranking_odds([FieldCount(4, 1, 1, 0), FieldCount(2, 1, 1, 0)])
    assert (none.odds, none.low) == (0.0, 0.0)
    assert none.p_value == pytest.approx(3 / 8 + 1 / 8)


def test_one_field_is_a_fisher_exact_test() -> None:
    """8 candidates, 4 with the attribute, 4 winners, 3 of them with it: Fisher's tea tasting."""
    found = statistics.ranking_odds([FieldCount(8, 4, 4, 3)])
    assert found.p_value == pytest.approx(34 / 70)
    assert found.odds == pytest.approx(6.4083, abs=1e-3)
    assert found.low == pytest.approx(0.2117, abs=1e-3)
    assert found.high == pytest.approx(626.24, rel=1e-3), "as scipy.stats.contingency.odds_ratio"


def test_many_fields_of_many_winners_are_counted_to_their_ends() -> None:
    """The chance that all 100 fields are won by the attribute alone is 1 in 10^411, which no float64 holds."""
    alike = FieldCount(16, 8, 8, 7)
    alone, many = statistics.ranking_odds([alike]), statistics.ranking_odds([alike] * 100)
    assert alone.odds is not None
    assert many.odds == pytest.approx(alone.odds, rel=1e-5), "fields that are alike have the estimate of one"
    assert many.high is not None
    assert 1 < many.low < alone.odds < many.high
    assert many.observed == 700
    assert many.expected == pytest.approx(400)
    won = statistics.ranking_odds([FieldCount(16, 8, 8, 8)] * 100)
    assert (won.observed, won.odds, won.high) == (800, None, None), "every field that could was won: no upper bound"
    assert won.low > many.high
    lost = statistics.ranking_odds([FieldCount(16, 8, 8, 0)] * 100)
    assert (lost.odds, lost.low) == (0.0, 0.0)
    assert lost.high == pytest.approx(1 / won.low, rel=1e-5)
    huge = statistics.ranking_odds([FieldCount(4096, 2048, 1024, 512)])
    assert huge.odds == pytest.approx(1, rel=1e-3)
    assert huge.p_value == pytest.approx(1)


def test_fields_that_cannot_tell_do_not_count() -> None:
    silent = [FieldCount(8, 0, 1, 0), FieldCount(8, 8, 1, 1), FieldCount(1, 1, 1, 1), FieldCount(0, 0, 0, 0)]
    found = statistics.ranking_odds(silent)
    assert (found.fields, found.p_value, found.odds, found.low, found.high) == (0, 1.0, None, 0.0, None)
    telling = FieldCount(8, 2, 1, 1)
    assert statistics.ranking_odds([telling, *silent]) == statistics.ranking_odds([telling])


def test_holm_holds_the_error_rate_over_attributes() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
    draw = np.random.default_rng(5)
    false = [min(statistics.holm(draw.random(6).tolist())) <= 0.05 for _ in range(SIMULATIONS)]
    assert np.mean(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_the_difference_of_shares_is_bounded_over_fields() -> None:
    draw = np.random.default_rng(6)
    found = statistics.share_difference(drawn(draw, 200, 3.0))
    assert found.low is not None
    assert found.share is not None
    assert found.high is not None
    assert 0 < found.low < found.share < found.high < 0.5
    few = statistics.share_difference([FieldCount(8, 4, 1, 1)])
    assert (few.share, few.low) == (0.5, None)
    assert statistics.share_difference([]).share is None
