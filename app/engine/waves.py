"""When to stop making candidates: what another wave would add to the best so far. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORTH = 0.1
"""A wave is made while it is expected to raise the best score by this many standard deviations of the field."""

_GRID = np.linspace(0.0, 6.0, 601)
"""Standard deviations above the best, over which the gain is integrated."""


def expected_gain(scores: Sequence[float], wave: int) -> float:
    """What `wave` more candidates would add to the best score, in standard deviations of the field.

    Scores are taken as normal: the gain is the integral, from the best upwards, of P(the wave's best is higher).
    Infinite for fewer than two scores, 0 for a field without spread.
    """
    field = np.asarray([s for s in scores if np.isfinite(s)], np.float64)
    if len(field) < 2:
        return float("inf")
    deviation = float(field.std(ddof=1))
    if deviation == 0:
        return 0.0
    best = (float(field.max()) - float(field.mean())) / deviation
    higher = 1 - _normal_cdf(best + _GRID) ** wave
    return float(np.trapezoid(higher, _GRID))


def _normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray([0.5 * math.erfc(-v / math.sqrt(2)) for v in values])
