"""Early stopping: the expected gain of another wave. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_EXPECTED_GAIN = 0.1
"""Minimum expected gain for another wave.

The gain of the mean of the n best, in standard deviations of the field.
"""

SIMULATED_WAVES = 2000
"""Simulated waves; the error of an expected gain is about 0.01."""


def expected_gain(finished: Sequence[float], pruned: Sequence[tuple[float, float]], n: int, wave: int) -> float:
    """Return the expected gain of `wave` more candidates in the mean of the n best.

    The unit is standard deviations of the field. `finished` holds final scores. `pruned` holds predicted final scores
    with standard errors. The field is both, modelled as normal, but only finished candidates can be returned. NaN is
    ignored. Returns infinity with fewer than two scores or fewer than n finished candidates, 0 without spread.
    """
    best = np.sort([s for s in finished if np.isfinite(s)])[-n:]
    known = [(s, e) for s, e in (*((s, 0.0) for s in finished), *pruned) if np.isfinite(s)]
    if len(known) < 2 or len(best) < n:
        return float("inf")
    field, errors = np.asarray(known, np.float64).T
    deviation = float(np.sqrt(field.var(ddof=1) + np.square(errors).mean()))
    if deviation == 0:
        return 0.0
    drawn = field.mean() + deviation * np.random.default_rng(0).standard_normal((wave, SIMULATED_WAVES))
    joined = np.concatenate([np.repeat(best[:, None], SIMULATED_WAVES, axis=1), drawn])
    gains = np.partition(joined, -n, axis=0)[-n:].mean(axis=0) - best.mean()
    return float(gains.mean()) / deviation


def lost_gain(scores: Sequence[float], kept: Sequence[float], n: int) -> float:
    """Return the share of the gain of the best n over a random pick that is lost.

    `kept` are those of the `scores` that are left.
    """
    if len(kept) < min(n, len(scores)):
        return 1.0
    best, left = (float(np.mean(sorted(some, reverse=True)[:n])) for some in (scores, kept))
    mean = float(np.mean(scores))
    return (best - left) / (best - mean) if best > mean else 0.0
