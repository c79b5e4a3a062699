"""Taste model: regularised logistic fit of votes. Pure NumPy, deterministic.

A vote is a direction in the scorer's space. A like points from the field's mean to the image, a dislike from the image
to that mean. A preference points from the rejected to the preferred image (Bradley and Terry 1952). Every direction is
a positive example, so likes alone are enough, and contradicting votes cancel out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.protocols import ScorerInfo

RIDGE_WEIGHT = 1.0
"""Regularisation weight of the squared norm, in votes."""

BOUND_STDS = 0.5
"""Maximum effect of taste, in standard deviations of the null distribution.

So taste cannot reverse a lead of one standard deviation: the prompt always counts.
"""

DEFAULT_NULL_STD = 0.05
"""Default of that deviation: about the spread of CLIP's unrelated pairs."""

_STEPS = 30
_SMALL = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class TasteModel:
    """A fit, `vector` float64 (D,): odds of a like exp(2 * (vector . x - offset))."""

    vector: NDArray[np.float64]
    offset: float

    def agreement(self, directions: NDArray[np.float32]) -> float:
        """Return the share of votes (V, D) that agree with the fit."""
        return float(np.mean(directions @ self.vector > 0))


def score_bound(scorer: ScorerInfo) -> float:
    """Return the maximum effect of taste with this scorer, in units of the score."""
    return BOUND_STDS * (scorer.null_std or DEFAULT_NULL_STD)


def fit_taste(directions: NDArray[np.float32], centre: NDArray[np.float32]) -> TasteModel:
    """Fit votes (V, D), V > 0, from fields centred on `centre` (D,).

    Newton's method; takes milliseconds.
    """
    votes = directions.astype(np.float64)
    length = float(np.sqrt(np.mean(np.sum(votes**2, axis=1))))
    if length < _SMALL:
        return TasteModel(np.zeros(votes.shape[1]), 0.0)
    basis = np.linalg.qr(votes.T)[0] if len(votes) < votes.shape[1] else np.eye(votes.shape[1])
    vector = basis @ _newton(votes @ basis / length) / (2 * length)
    return TasteModel(vector, float(vector @ centre))


def _newton(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the w that minimises RIDGE / 2 * |w|^2 + sum log(1 + exp(-votes w))."""
    w = np.zeros(votes.shape[1])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(votes @ w))
        slope = RIDGE_WEIGHT * w - votes.T @ share
        curve = RIDGE_WEIGHT * np.eye(len(w)) + (votes * (share * (1 - share))[:, None]).T @ votes
        step = np.linalg.solve(curve, slope)
        w -= step
        if np.abs(step).max() < _SMALL:
            break
    return w
