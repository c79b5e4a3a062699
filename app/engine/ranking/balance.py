"""The best images within shares of an attribute's values, and the cost. Pure.

A share of `n` returned images is a quota, by largest remainders. The best images of each value fill its quota. What a
value lacks is filled by the best others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.engine.ranking.scoring import rank_order


@dataclass(frozen=True, slots=True)
class BalancedField:
    """The values' shares, which sum to 1, and the value of each image.

    `classes` are by index; -1 is no value.
    """

    shares: tuple[float, ...]
    classes: tuple[int, ...]

    def select(self, scores: Sequence[float], indices: Sequence[int], n: int) -> list[int]:
        """Return at most `n` places, best first; NaN scores are excluded.

        `scores` are those of the images `indices`.
        """
        ranked = [place for place in rank_order(scores) if not math.isnan(scores[place])]
        left, picks = quotas(self.shares, min(n, len(ranked))), list[int]()
        for place in ranked:
            value = self.classes[indices[place]]
            if value >= 0 and left[value] > 0:
                left[value] -= 1
                picks.append(place)
        chosen = set(picks)
        picks += [place for place in ranked if place not in chosen][: min(n, len(ranked)) - len(picks)]
        return [place for place in ranked if place in set(picks)]

    def counts(self, indices: Sequence[int]) -> list[int]:
        """How many of these images have each value."""
        return [sum(self.classes[index] == value for index in indices) for value in range(len(self.shares))]


def quotas(shares: Sequence[float], n: int) -> list[int]:
    """Whole numbers that sum to `n`, by largest remainders."""
    exact = [share * n for share in shares]
    found = [math.floor(each + 1e-9) for each in exact]
    by_remainder = sorted(range(len(shares)), key=lambda value: found[value] - exact[value])
    for value in by_remainder[: n - sum(found)]:
        found[value] += 1
    return found


def mean_cost(scores: Sequence[float], picks: Sequence[int], n: int) -> float:
    """Mean score of the best without balance, less that of the picks; 0 without any."""
    best = [place for place in rank_order(scores) if not math.isnan(scores[place])][: min(n, len(picks))]
    if not best:
        return 0.0
    values = np.asarray(scores, np.float64)
    return float(values[best].mean() - values[list(picks)].mean())
