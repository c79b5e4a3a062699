"""Bootstrap intervals. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Resamples unless a caller states another number."""


def interval(
    values: Sequence[float] | NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean (Efron 1979).

    `values` (N,) are those of one prompt each, such as paired differences.
    """
    rows = np.asarray(values, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    low, high = np.quantile(rows[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
