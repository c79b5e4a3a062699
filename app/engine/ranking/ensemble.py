"""Ensembles: one ranking from the scores of several scorers. Pure NumPy.

    S = mean_m z_m - uncertainty * std_m z_m        (mean and deviation weighted over the members m)

z_m is a member's score in standard deviations from its mean over the field; in a field of fewer than `SMALL_FIELD`
candidates its ranks take the place of its scores. The field is what all members judged. A candidate outside it is
measured against the same field, by the members that judged it. The deviation penalises candidates on which members
disagree (Coste et al. 2023, arXiv 2312.09244).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

SMALL_FIELD = 8
"""Candidates below which ranks replace scores.

A deviation of few scores is mostly noise.
"""

MIN_AGREEMENT_FIELD = 4
"""Minimum candidates of a field of which agreement means something."""

Values = NDArray[np.float64]


def judged_by_all(scores: Sequence[Values], pool: Sequence[int]) -> list[int]:
    """The places of `pool` that every member judged.

    Scores are (N,), NaN where a member did not judge.
    """
    return [i for i in pool if all(np.isfinite(values[i]) for values in scores)]


def standardise(values: Values, field: Sequence[int]) -> Values:
    """Standardise all values (N,) against those of the `field`.

    The result is zero where the field does not differ.

    `values` may be NaN outside the field; those stay NaN.
    """
    if not field:
        return np.where(np.isnan(values), np.nan, 0.0)
    inside = values[list(field)]
    if len(inside) < SMALL_FIELD:
        below = (inside[None] < values[:, None]).sum(axis=1)
        equal = (inside[None] == values[:, None]).sum(axis=1)
        values = np.where(np.isnan(values), np.nan, below + (equal + 1) / 2)
        inside = values[list(field)]
    spread = float(inside.std())
    if not spread > 0:
        return np.where(np.isnan(values), np.nan, 0.0)
    return np.asarray((values - inside.mean()) / spread, np.float64)


def combine(
    scores: Mapping[str, Values], weights: Mapping[str, float], uncertainty: float, field: Sequence[int]
) -> Values:
    """S of every candidate (N,); NaN where no member of positive weight judged.

    `scores` (N,) and `weights` are by member; those of weight 0 do not count.
    """
    counted = [name for name in scores if weights[name] > 0]
    z = np.stack([standardise(scores[name], field) for name in counted])
    present = np.isfinite(z)
    share = np.asarray([weights[name] for name in counted])[:, None] * present
    total = share.sum(axis=0)
    known = np.where(present, z, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (share * known).sum(axis=0) / total
        deviation = np.sqrt((share * (known - mean) ** 2).sum(axis=0) / total)
    return np.where(total > 0, mean - uncertainty * deviation, np.nan)


def agreement(scores: Sequence[Values], field: Sequence[int]) -> float | None:
    """The mean of Kendall's tau-b over the pairs of members, in [-1, 1].

    None with fewer than two members that tell candidates apart, or fewer than `MIN_AGREEMENT_FIELD` candidates.
    """
    if len(field) < MIN_AGREEMENT_FIELD:
        return None
    signs = [_signs(values[list(field)]) for values in scores]
    signs = [one for one in signs if one.any()]
    taus = [float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())) for a, b in combinations(signs, 2)]
    return float(np.mean(taus)) if taus else None


def chance_agreement(candidates: int) -> float:
    """The standard deviation of Kendall's tau of two unrelated orders.

    Agreement below it is no more than chance.
    """
    return float(np.sqrt(2 * (2 * candidates + 5) / (9 * candidates * (candidates - 1))))


def _signs(values: Values) -> Values:
    """Which of two candidates a member prefers, for all pairs."""
    upper = np.triu_indices(len(values), 1)
    return np.sign(values[:, None] - values[None])[upper]
