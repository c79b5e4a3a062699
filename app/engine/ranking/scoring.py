"""Score formula and selection: pure functions over unit embeddings.

    score = similarity - negative_weight * penalty + taste
    similarity = (cos(image, prompt) + sum_r w_r * cos(image, liked_r)) / (1 + sum_r w_r)
    penalty = sum_k w_k * max(0, cos(image, unwanted_k)) / sum_k w_k      (0 without any)
    taste = bound * tanh(vector . image - offset)                         (0 without a profile)

`liked` are references with a weight above 0. `unwanted` are the negatives and the references with a weight below 0,
which counts by its absolute value. Owns the formula, the order (ties by index, NaN last), diversity and the
statistics of a ranking. No model, no device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain import Ranking, Score
from app.engine.ranking import duplicates
from models.protocols import Embeddings, ScorerInfo

CHANCE_Z_SCORE = 2.0
"""Minimum z-score of a winner; below it the match is no better than chance."""

NOISE_SHARE = 0.25
"""Minimum spread of a field, in standard deviations of the null distribution."""

DUPLICATE_PENALTY = 4.0
"""Penalty that exceeds any gain of marginal relevance, which lies in [-1, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class TasteTerm:
    """A fitted profile: `vector` (D,); `bound`, the maximum effect on the score."""

    vector: NDArray[np.float32]
    offset: float
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """The embedded query: `prompt` (D,), `negatives` (K, D), `weights` (K,) > 0.

    All vectors have unit length. `references` (R, D) have `reference_weights` (R,) of either sign; both are None
    without references.
    """

    prompt: NDArray[np.float32]
    negatives: Embeddings
    weights: NDArray[np.float32]
    negative_weight: float
    references: Embeddings | None = None
    reference_weights: NDArray[np.float32] | None = None
    taste: TasteTerm | None = None


def build_query(
    ranking: Ranking, prompt: NDArray[np.float32], negatives: Embeddings, weights: Sequence[float]
) -> Query:
    """Build the query of a ranking from its embedded texts.

    `prompt` (D,), `negatives` (K, D), and the `weights` of the negatives (K,).
    """
    references, taste = ranking.references, ranking.taste
    return Query(
        prompt,
        negatives,
        np.asarray(weights, np.float32),
        ranking.negative_weight,
        np.asarray([r.vector for r in references], np.float32) if references else None,
        np.asarray([r.weight for r in references], np.float32) if references else None,
        TasteTerm(np.asarray(taste.vector, np.float32), taste.offset, taste.bound) if taste is not None else None,
    )


def score_images(images: Embeddings, query: Query) -> list[Score]:
    """Score images (B, D), in order; the bits do not depend on the other images."""
    text = _cosines(images, query.prompt[None])[:, 0]
    negatives = _cosines(images, query.negatives)
    references, signed_weights = np.zeros((len(images), 0), np.float32), np.zeros(0, np.float32)
    if query.references is not None and query.reference_weights is not None:
        references, signed_weights = _cosines(images, query.references), query.reference_weights
    liked, unwanted = signed_weights > 0, signed_weights < 0
    similarity = text
    if liked.any():
        similarity = (text + _weighted_sum(references[:, liked], signed_weights[liked])) / (
            1 + signed_weights[liked].sum()
        )
    unwanted_cosines = np.concatenate([negatives, references[:, unwanted]], axis=1)
    weights = np.concatenate([query.weights, -signed_weights[unwanted]])
    penalty = np.zeros(len(images), np.float32)
    if len(weights):
        penalty = _weighted_sum(np.maximum(unwanted_cosines, 0), weights) / weights.sum()
    taste = _taste_scores(images, query.taste)
    total = similarity - query.negative_weight * penalty + taste
    columns = (
        total.tolist(),
        similarity.tolist(),
        penalty.tolist(),
        map(tuple, negatives.tolist()),
        map(tuple, references.tolist()),
        text.tolist() if liked.any() else [None] * len(images),
        taste.tolist(),
    )
    return [Score(*row) for row in zip(*columns, strict=True)]


def _cosines(images: Embeddings, vectors: Embeddings) -> NDArray[np.float32]:
    """Return cosines (B, K), summed row by row.

    The rounding of a matrix product would depend on the number of rows.
    """
    columns = [np.multiply(images, vector).sum(axis=1) for vector in vectors]
    return np.stack(columns, axis=1) if columns else np.zeros((len(images), 0), np.float32)


def _weighted_sum(cosines: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted sums (B,) of cosines (B, K), each added up along its own row."""
    return np.asarray(np.multiply(np.ascontiguousarray(cosines), weights).sum(axis=1), np.float32)


def _taste_scores(images: Embeddings, taste: TasteTerm | None) -> NDArray[np.float32]:
    if taste is None:
        return np.zeros(len(images), np.float32)
    return np.asarray(taste.bound * np.tanh(_cosines(images, taste.vector[None])[:, 0] - taste.offset), np.float32)


def rank_order(scores: Sequence[float]) -> list[int]:
    """Return the places by descending score; ties by place, NaN last."""
    worst_last = [math.inf if math.isnan(score) else -score for score in scores]
    return sorted(range(len(worst_last)), key=worst_last.__getitem__)


def select_best(
    scores: Sequence[float], embeddings: Embeddings, n: int, *, diversity: float = 0.0, min_score: float | None = None
) -> list[int]:
    """Return at most `n` places, best first; none below `min_score` or NaN.

    `diversity` in [0, 1] applies maximal marginal relevance (Carbonell and Goldstein 1998). Each pick maximises
    (1 - diversity) * score - diversity * (largest cosine with earlier picks), both scaled to [0, 1] over the field.
    Above 0, near-duplicates of a pick are picked only when nothing else remains. The picks are sorted by score.
    """
    floor = -np.inf if min_score is None else min_score
    field = [i for i in rank_order(scores) if not math.isnan(scores[i]) and scores[i] >= floor]
    if diversity <= 0 or len(field) <= n:
        return field[:n]
    picks = _marginal_relevance(np.asarray([scores[i] for i in field]), embeddings[field], n, diversity)
    return [field[i] for i in sorted(picks)]


def _marginal_relevance(scores: NDArray[np.float64], images: Embeddings, n: int, diversity: float) -> list[int]:
    """Return the places of `n` picks in a field sorted by score."""
    groups = np.asarray(duplicates.duplicate_groups(images))
    worth, closeness = _min_max_scaled(scores), _min_max_scaled(images @ images.T)
    picks = [0]
    while len(picks) < n:
        gain = (1 - diversity) * worth - diversity * closeness[:, picks].max(axis=1)
        gain[np.isin(groups, groups[picks])] -= DUPLICATE_PENALTY
        gain[picks] = -np.inf
        picks.append(int(np.argmax(gain)))
    return picks


def _min_max_scaled(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale values to [0, 1]; zeros when all are equal."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low) if high > low else values * 0.0, np.float64)


def softmax(scores: Sequence[float], logit_scale: float) -> list[float]:
    """Return the softmax of the scores at the scorer's temperature; 0 for NaN."""
    values = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf)
    if not len(values) or not np.isfinite(values).any():
        return [0.0] * len(values)
    weights = np.exp(logit_scale * (values - values.max()))
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


def z_score(similarity: float, scorer: ScorerInfo) -> float | None:
    """Return the z-score against cosines of unrelated pairs; None if unknown."""
    if scorer.null_mean is None or not scorer.null_std:
        return None
    return (similarity - scorer.null_mean) / scorer.null_std


def margin(scores: Sequence[float]) -> float | None:
    """Return the winner's lead over the runner-up; None with fewer than two scores."""
    best = [scores[i] for i in rank_order(scores)[:2]]
    return best[0] - best[1] if len(best) == 2 and not any(map(math.isnan, best)) else None


def low_confidence(best: Score | None, scores: Sequence[float], scorer: ScorerInfo) -> bool:
    """Whether the field is within noise: winner at chance level, or little spread."""
    if best is None or math.isnan(best.score):
        return True
    z = z_score(best.prompt_similarity, scorer)
    if z is None or scorer.null_std is None:
        return False
    finite = [s for s in scores if not math.isnan(s)]
    alike = len(finite) > 1 and max(finite) - min(finite) < NOISE_SHARE * scorer.null_std
    return z < CHANCE_Z_SCORE or alike
