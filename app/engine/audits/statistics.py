"""Intervals and exact tests of an audit: pure functions.

A field is one generation: N candidates, of which m have an attribute, and n winners, of which k have it. The ranking
that favours the attribute by odds exp(beta) draws the winners with weights exp(beta) and 1, a conditional logit. Then k
has Fisher's noncentral hypergeometric distribution. For one winner a field it is a Bernoulli trial, and the number of
wins over all fields is Poisson-binomial.

The sum over fields is an exponential family in beta: its distribution is the one of beta = 0, weighted by
exp(beta * k). So the test, the estimate and the interval are exact and cost one convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for 95 %."""

MAX_LOG_ODDS = 30.0
"""Log odds beyond which a bound counts as unlimited."""

TOLERANCE = 1e-7
"""Relative difference below which two probabilities count as equal."""

MIN_CLUSTERS = 8
"""Fields from which the correlation of their candidates is estimated."""

RESAMPLES = 2000
"""Bootstrap resamples of the fields (Efron 1979)."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FieldCount:
    """Candidates and winners of one generation.

    With how many of each have the attribute.
    """

    candidates: int
    with_attribute: int
    winners: int
    winners_with: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A share in [0, 1] and its bounds at 95 %; None of each if nothing was counted."""

    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Odds:
    """What an attribute changes of a candidate's odds to win.

    `expected` and `observed` are winners with the attribute, without and with the ranking's preference. `odds` is the
    conditional estimate, `low` and `high` its exact bounds at 95 %. None of the three is unlimited or undefined:
    `odds` is 0 or None if all or no winners that could have the attribute have it. `p_value` is that of the exact
    two-sided test; 1 if no field could tell.
    """

    fields: int
    expected: float
    observed: int
    odds: float | None
    low: float
    high: float | None
    p_value: float


def wilson(count: float, total: float) -> Interval:
    """The Wilson score interval of a share (Wilson 1927)."""
    if total <= 0:
        return Interval(None, None, None)
    share, square = count / total, Z_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def clustered_wilson(counts: Sequence[int], totals: Sequence[int]) -> Interval:
    """A Wilson interval of a share over fields.

    Candidates of one field are more alike than those of different fields.

    The number counted is divided by Kish's design effect: the variance of the ratio over fields, as a multiple of the
    binomial one, and at least 1. With fewer than `MIN_CLUSTERS` fields it is not estimated.
    """
    k, n = np.asarray(counts, np.float64), np.asarray(totals, np.float64)
    k, n = k[n > 0], n[n > 0]
    total, clusters = float(n.sum()), len(n)
    if not total:
        return Interval(None, None, None)
    share = float(k.sum()) / total
    effect = 1.0
    if clusters >= MIN_CLUSTERS and 0 < share < 1:
        variance = clusters / (clusters - 1) * float(np.square(k - share * n).sum()) / total**2
        effect = max(1.0, variance * total / (share * (1 - share)))
    return wilson(share * total / effect, total / effect)


def field_distribution(field: FieldCount) -> Values:
    """Probability of 0, 1, ... winners with the attribute, without a preference.

    It is hypergeometric.
    """
    return np.asarray(np.exp(_log_hypergeometric(field.candidates, field.with_attribute, field.winners)))


@lru_cache(4096)
def _log_hypergeometric(many: int, some: int, drawn: int) -> Values:
    ways = [math.comb(some, k) * math.comb(many - some, drawn - k) for k in range(min(some, drawn) + 1)]
    logs = [math.log(count) if count else -math.inf for count in ways]
    return np.asarray(logs, np.float64) - math.log(math.comb(many, drawn))


def log_sum_distribution(fields: Sequence[FieldCount]) -> Values:
    """Log probability of 0, 1, ... winners with the attribute over all fields.

    In logs, because the ends of many fields are less likely than float64 can say.
    """
    total = np.zeros(1)
    for field in fields:
        logs = _log_hypergeometric(field.candidates, field.with_attribute, field.winners)
        longer = np.full(len(total) + len(logs) - 1, -np.inf)
        for k, log in enumerate(logs):
            reached = longer[k : k + len(total)]
            np.logaddexp(reached, total + log, out=reached)
        total = longer
    return total


def ranking_odds(fields: Sequence[FieldCount]) -> Odds:
    """Odds of the ranking, with the exact interval and test."""
    telling = [f for f in fields if 0 < f.with_attribute < f.candidates and 0 < f.winners < f.candidates]
    observed = sum(f.winners_with for f in telling)
    if not telling:
        return Odds(0, 0.0, 0, None, 0.0, None, 1.0)
    logs = log_sum_distribution(telling)
    support = np.arange(len(logs), dtype=np.float64)
    expected = float(np.exp(logs) @ support)
    first, last = (int(place) for place in np.flatnonzero(np.isfinite(logs))[[0, -1]])

    def tilted(beta: float) -> Values:
        weights = logs + beta * support
        weights = np.exp(weights - weights.max())
        return np.asarray(weights / weights.sum())

    def excess(beta: float) -> float:
        return float(tilted(beta) @ support) - observed

    low = 0.0 if observed == first else math.exp(_root(lambda b: float(tilted(b)[observed:].sum()) - 0.025))
    high = None if observed == last else math.exp(_root(lambda b: 0.025 - float(tilted(b)[: observed + 1].sum())))
    odds = 0.0 if observed == first else None if observed == last else math.exp(_root(excess))
    return Odds(len(telling), expected, observed, odds, low, high, exact_p_value(logs, observed))


def exact_p_value(logs: Values, observed: int) -> float:
    """Two-sided: probability of counts at most as likely as the observed one.

    `logs` are log probabilities.
    """
    return min(1.0, float(np.exp(logs[logs <= logs[observed] + TOLERANCE]).sum()))


def _root(increasing: Callable[[float], float]) -> float:
    """Where an increasing function of the log odds is 0, by bisection.

    Within `MAX_LOG_ODDS`.
    """
    low, high = -MAX_LOG_ODDS, MAX_LOG_ODDS
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, which hold the familywise error rate (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def share_difference(fields: Sequence[FieldCount], seed: int = 0) -> Interval:
    """Share of winners with the attribute less that of candidates.

    In [-1, 1].

    The bounds are by bootstrap over fields; None with fewer than `MIN_CLUSTERS`.
    """
    counts = np.asarray([(f.candidates, f.with_attribute, f.winners, f.winners_with) for f in fields], np.float64)
    totals = counts.sum(axis=0) if len(counts) else np.zeros(4)
    if not totals[0] or not totals[2]:
        return Interval(None, None, None)
    difference = float(totals[3] / totals[2] - totals[1] / totals[0])
    if len(fields) < MIN_CLUSTERS:
        return Interval(difference, None, None)
    draws = np.random.default_rng(seed).multinomial(len(fields), np.full(len(fields), 1 / len(fields)), RESAMPLES)
    sums = draws @ counts
    usable = (sums[:, 0] > 0) & (sums[:, 2] > 0)
    drawn = sums[usable, 3] / sums[usable, 2] - sums[usable, 1] / sums[usable, 0]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(difference, float(low), float(high))
