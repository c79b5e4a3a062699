"""When to stop making candidates: what another wave would add to the best so far. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WORTH = 0.1
"""A wave is made while it should raise the mean of the n best by this many standard deviations of the field."""

DRAWS = 2000
"""Simulated waves; the error of an expected gain is about 0.01."""


def expected_gain(finished: Sequence[float], pruned: Sequence[tuple[float, float]], n: int, wave: int) -> float:
    """What `wave` more candidates would add to the mean of the n best finished, in standard deviations of the field.

    `finished` are final scores, `pruned` what the previews of the others foretell and the standard error of it: the
    field is both, and taken as normal, but only who finished can be returned. NaN is passed over. Infinite while fewer
    than two scores are known or fewer than n candidates finished, 0 for a field without spread.
    """
    best = np.sort([s for s in finished if np.isfinite(s)])[-n:]
    known = [(s, e) for s, e in (*((s, 0.0) for s in finished), *pruned) if np.isfinite(s)]
    if len(known) < 2 or len(best) < n:
        return float("inf")
    field, errors = np.asarray(known, np.float64).T
    deviation = float(np.sqrt(field.var(ddof=1) + np.square(errors).mean()))
    if deviation == 0:
        return 0.0
    drawn = field.mean() + deviation * np.random.default_rng(0).standard_normal((wave, DRAWS))
    joined = np.concatenate([np.repeat(best[:, None], DRAWS, axis=1), drawn])
    gains = np.partition(joined, -n, axis=0)[-n:].mean(axis=0) - best.mean()
    return float(gains.mean()) / deviation
