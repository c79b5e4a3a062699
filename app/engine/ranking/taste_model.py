"""What a profile of votes says of a picture: a regularised logistic fit over embeddings. Pure NumPy, deterministic.

A vote is a direction in the scorer's space: from the mean of its field to a liked picture, from a disliked one to that
mean, or from the picture that lost to the one it was preferred to (Bradley and Terry 1952). Every direction is an
example that should be positive, so likes alone are enough, and votes that contradict each other cancel out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.protocols import ScorerInfo

RIDGE = 1.0
"""Weight of the squared length of the fit, in votes."""

BOUND = 0.5
"""Most that a taste adds to or takes from a score, in standard deviations of the scorer's null distribution.

So a candidate that leads another by one of them cannot be overtaken by taste: the prompt always counts.
"""

UNKNOWN_STD = 0.05
"""That deviation where nobody measured it: about what CLIP's cosines of unlike pairs spread."""

_STEPS = 30
_SMALL = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A fit: a picture x is liked with odds exp(2 * (vector . x - offset)). `vector` float64 (D,)."""

    vector: NDArray[np.float64]
    offset: float

    def agreement(self, directions: NDArray[np.float32]) -> float:
        """Share of votes (V, D) that the fit would cast the same way."""
        return float(np.mean(directions @ self.vector > 0))


def bound(scorer: ScorerInfo) -> float:
    """The most that a taste may count with this scorer, in units of the score."""
    return BOUND * (scorer.null_std or UNKNOWN_STD)


def fit(directions: NDArray[np.float32], centre: NDArray[np.float32]) -> Head:
    """The head of votes (V, D), V > 0, cast in fields round `centre` (D,). Newton's method, milliseconds."""
    votes = directions.astype(np.float64)
    length = float(np.sqrt(np.mean(np.sum(votes**2, axis=1))))
    if length < _SMALL:
        return Head(np.zeros(votes.shape[1]), 0.0)
    basis = np.linalg.qr(votes.T)[0] if len(votes) < votes.shape[1] else np.eye(votes.shape[1])
    vector = basis @ _newton(votes @ basis / length) / (2 * length)
    return Head(vector, float(vector @ centre))


def _newton(votes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The w that minimises RIDGE / 2 * |w|^2 + sum log(1 + exp(-votes w))."""
    w = np.zeros(votes.shape[1])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(votes @ w))
        slope = RIDGE * w - votes.T @ share
        curve = RIDGE * np.eye(len(w)) + (votes * (share * (1 - share))[:, None]).T @ votes
        step = np.linalg.solve(curve, slope)
        w -= step
        if np.abs(step).max() < _SMALL:
            break
    return w
