"""What a candidate is worth, and which are returned: pure functions over unit embeddings.

    score = similarity - negative_weight * penalty
    similarity = cos(image, prompt)
    penalty = sum_k w_k * max(0, cos(image, negative_k)) / sum_k w_k      (0 without negatives)

Owns the formula, the order (ties by index, a score that is not a number last), diversity and the honest numbers
that go with a ranking. No model, no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain import Score
from models.contract import Embeddings, ScorerInfo

CHANCE_Z = 2.0
"""A winner below this many standard deviations of the null distribution looks like no match at all."""

NOISE_SHARE = 0.25
"""A field whose scores spread less than this share of the null's deviation is not told apart by the scorer."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """What images are compared with: `prompt` (D,), `negatives` (K, D), unit vectors; `weights` (K,), positive."""

    prompt: NDArray[np.float32]
    negatives: Embeddings
    weights: NDArray[np.float32]
    negative_weight: float


def score(images: Embeddings, query: Query) -> list[Score]:
    """Scores of images (B, D), in order."""
    similarity = images @ query.prompt
    cosines = images @ query.negatives.T
    penalty = np.zeros(len(images), np.float32)
    if len(query.weights):
        penalty = np.maximum(cosines, 0) @ query.weights / query.weights.sum()
    total = similarity - query.negative_weight * penalty
    return [
        Score(float(t), float(s), float(p), tuple(float(c) for c in row))
        for t, s, p, row in zip(total, similarity, penalty, cosines, strict=True)
    ]


def order(scores: Sequence[float]) -> list[int]:
    """Places by falling score; ties by place, NaN last."""
    values = np.asarray(scores, np.float64)
    return [int(i) for i in np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")]


def select(
    scores: Sequence[float], embeddings: Embeddings, n: int, *, diversity: float = 0.0, min_score: float | None = None
) -> list[int]:
    """Places of the returned, best first: at most `n`, none below `min_score`, none without a score.

    `diversity` in [0, 1] trades score for difference by maximal marginal relevance (Carbonell and Goldstein 1998):
    each pick is the highest in (1 - diversity) * score - diversity * (largest cosine with those picked), both
    scaled to [0, 1] over the field. The picks are then put in the order of their scores.
    """
    floor = -np.inf if min_score is None else min_score
    field = [i for i in order(scores) if not np.isnan(scores[i]) and scores[i] >= floor]
    if diversity <= 0 or len(field) <= n:
        return field[:n]
    picks = _marginal_relevance(np.asarray([scores[i] for i in field]), embeddings[field], n, diversity)
    return [field[i] for i in sorted(picks)]


def _marginal_relevance(scores: NDArray[np.float64], images: Embeddings, n: int, diversity: float) -> list[int]:
    """Places of `n` picks in a field that is sorted by score."""
    alike = images @ images.T
    worth, closeness = _unit(scores), _unit(alike)
    picks = [0]
    while len(picks) < n:
        gain = (1 - diversity) * worth - diversity * closeness[:, picks].max(axis=1)
        gain[picks] = -np.inf
        picks.append(int(np.argmax(gain)))
    return picks


def _unit(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Values scaled to [0, 1]; zeros when they are all the same."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low) if high > low else values * 0.0, np.float64)


def softmax(scores: Sequence[float], logit_scale: float) -> list[float]:
    """Share of each score in its field at the scorer's own temperature; a NaN has none."""
    values = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf)
    if not len(values) or not np.isfinite(values).any():
        return [0.0] * len(values)
    weights = np.exp(logit_scale * (values - values.max()))
    return [float(w) for w in weights / weights.sum()]


def z_score(similarity: float, scorer: ScorerInfo) -> float | None:
    """Standard deviations above the cosines of images and texts that do not belong together; None if unknown."""
    if scorer.null_mean is None or not scorer.null_std:
        return None
    return (similarity - scorer.null_mean) / scorer.null_std


def margin(scores: Sequence[float]) -> float | None:
    """By how much the winner leads the runner-up; None with fewer than two scores."""
    best = [scores[i] for i in order(scores)[:2]]
    return best[0] - best[1] if len(best) == 2 and not np.isnan(best).any() else None


def low_confidence(best: Score | None, scores: Sequence[float], scorer: ScorerInfo) -> bool:
    """Whether the field is within noise: the winner is no better than chance, or the field is all alike."""
    if best is None or np.isnan(best.score):
        return True
    z = z_score(best.similarity, scorer)
    if z is None or scorer.null_std is None:
        return False
    finite = [s for s in scores if not np.isnan(s)]
    alike = len(finite) > 1 and max(finite) - min(finite) < NOISE_SHARE * scorer.null_std
    return z < CHANCE_Z or alike
