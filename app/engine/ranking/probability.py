"""Probability that an image shows a text, standard error of a margin. Pure.

    probability = sigmoid(slope * cosine + intercept)          at even odds: half of the pairs match

Platt scaling (Platt 1999), fitted to images of one prompt beside texts of the same and of other prompts. The error is
measured by cross-fitting: no fold is judged by a fit that has seen its prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from app.domain import Ranking, Score
from models.protocols import Calibration, Embeddings, GeneratorInfo, MatchCalibration, ScorerInfo

BINS = 10
"""Bins of the reliability table (Guo et al. 2017, arXiv 1706.04599)."""

FOLDS = 4
"""Parts of the prompts; each is judged by a fit to the others."""

MIN_PROMPTS = 2 * FOLDS
"""Prompts below which nothing is fitted: a fold needs texts of other prompts."""

SAME_TEXT = 0.999
"""Cosine from which two texts count as the same prompt.

They form no unrelated pair.
"""

ITERATIONS = 100
"""Maximum Newton steps of a fit; it converges in about ten."""

Values = NDArray[np.float64]
Pairs = tuple[Values, Values, Values]
"""Cosines, whether they match (1 or 0), and weights; each (P,).

Both kinds weigh the same in total.
"""


def fit_match(images: NDArray[np.float32], texts: Embeddings, views: NDArray[np.float32]) -> MatchCalibration:
    """Fit the probability of the scorer that made these embeddings.

    `images` (P, N, D) are embeddings of N images of each of P prompts, `texts` (P, D) those of the prompts. `views`
    (P, N, V, D) are embeddings of the same images, changed as `views_of` says. Raises ValueError for fewer than
    `MIN_PROMPTS` prompts, or if images of a prompt match it no better than others.
    """
    if len(texts) < MIN_PROMPTS:
        raise ValueError(f"a probability needs at least {MIN_PROMPTS} prompts, and there are {len(texts)}")
    everything = np.arange(len(texts))
    slope, intercept = fit_platt(*match_pairs(images, texts, everything))
    if not slope > 0:
        raise ValueError("images match their own prompts no better than those of others: check the scorer")
    held_out = []
    for fold in range(FOLDS):
        inside = everything[everything % FOLDS == fold]
        own = fit_platt(*match_pairs(images, texts, np.setdiff1d(everything, inside)))
        cosines, matches, weights = match_pairs(images, texts, inside)
        held_out.append((_probabilities(cosines, *own), matches, weights))
    predicted, matches, weights = (np.concatenate(each) for each in zip(*held_out, strict=True))
    table = reliability(predicted, matches, weights)
    return MatchCalibration(
        slope=round(slope, 4),
        intercept=round(intercept, 4),
        noise=round(score_noise(views, texts), 5),
        error=round(calibration_error(table), 4),
        pairs=len(predicted),
        reliability=tuple((round(p, 4), round(share, 4), round(weight, 5)) for p, share, weight in table),
    )


def match_pairs(images: NDArray[np.float32], texts: Embeddings, prompts: NDArray[np.int64]) -> Pairs:
    """Pairs of the images of these prompts with their texts."""
    cosines = np.einsum("pnd,td->pnt", images[prompts].astype(np.float64), texts[prompts].astype(np.float64))
    own = np.broadcast_to(np.eye(len(prompts), dtype=bool)[:, None], cosines.shape)
    same = texts[prompts] @ texts[prompts].T >= SAME_TEXT
    kept = own | ~np.broadcast_to(same[:, None], cosines.shape)
    matches, values = own[kept].astype(np.float64), cosines[kept]
    count = matches.sum()
    weights = np.where(matches > 0, 0.5 / max(count, 1), 0.5 / max(len(matches) - count, 1))
    return values, matches, weights


def fit_platt(cosines: Values, matches: Values, weights: Values) -> tuple[float, float]:
    """Slope and intercept of the weighted logistic regression, by Newton's method.

    The targets are Platt's, a little inside 0 and 1, so that separable pairs have a finite fit.
    """
    positive, negative = float(matches.sum()), float((1 - matches).sum())
    targets = np.where(matches > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, scale = float(np.average(cosines, weights=weights)), float(cosines.std()) or 1.0
    design = np.stack([(cosines - centre) / scale, np.ones_like(cosines)], axis=1)
    found = np.zeros(2)
    for _ in range(ITERATIONS):
        predicted = 1 / (1 + np.exp(-np.clip(design @ found, -500, 500)))
        gradient = design.T @ (weights * (targets - predicted))
        curvature = (design * (weights * predicted * (1 - predicted))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        found = found + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < 1e-9:
            break
    slope = float(found[0]) / scale
    return slope, float(found[1]) - slope * centre


def reliability(predicted: Values, matches: Values, weights: Values) -> list[tuple[float, float, float]]:
    """Mean prediction, share that matches and weight of each bin.

    Empty bins are left out; the weights sum to 1.
    """
    places = np.minimum((predicted * BINS).astype(int), BINS - 1)
    table, total = [], float(weights.sum())
    for place in range(BINS):
        inside = places == place
        weight = float(weights[inside].sum())
        if weight > 0:
            mean, share = (float(np.average(each[inside], weights=weights[inside])) for each in (predicted, matches))
            table.append((mean, share, weight / total))
    return table


def calibration_error(table: Iterable[tuple[float, float, float]]) -> float:
    """Expected calibration error of a reliability table, in [0, 1]."""
    return sum(weight * abs(mean - share) for mean, share, weight in table)


def views_of(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The image (H, W, 3), and ones that show the same.

    They are moved by about 2 % each way, a little darker, or brighter.
    """
    step = max(1, round(min(image.shape[:2]) / 50))
    padded = np.pad(image, ((step, step), (step, step), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    moved = [
        padded[y : y + height, x : x + width] for y, x in ((0, step), (2 * step, step), (step, 0), (step, 2 * step))
    ]
    shaded = [np.clip(image * factor, 0, 255).round().astype(np.uint8) for factor in (0.96, 1.04)]
    return [image, *(np.ascontiguousarray(each) for each in moved), *shaded]


def score_noise(views: NDArray[np.float32], texts: Embeddings) -> float:
    """Standard deviation of a cosine over views of an image.

    Without what all images of the prompt share.

    `views` (P, N, V, D), `texts` (P, D). 0 for a single view.
    """
    cosines = np.einsum("pnvd,pd->pnv", views.astype(np.float64), texts.astype(np.float64))
    count, number = cosines.shape[1:]
    if count < 2 or number < 2:
        return 0.0
    centred = cosines - cosines.mean(axis=2, keepdims=True)
    centred -= centred.mean(axis=1, keepdims=True)
    freedom = len(cosines) * (count - 1) * (number - 1)
    return math.sqrt(float(np.square(centred).sum()) / freedom)


def known_match(
    calibration: Calibration | None, generator: GeneratorInfo, scorer: ScorerInfo
) -> MatchCalibration | None:
    """The probability of a calibration of these weights; None without one."""
    return calibration.match if calibration is not None and calibration.matches(generator, scorer) else None


def match_probability(score: Score | None, match: MatchCalibration | None) -> float | None:
    """The probability that an image shows the text.

    None without a calibration or a score.
    """
    if score is None or match is None or math.isnan(score.prompt_similarity):
        return None
    return float(_probabilities(np.asarray([score.prompt_similarity]), match.slope, match.intercept)[0])


def margin_error(ranking: Ranking, match: MatchCalibration | None) -> float | None:
    """Standard error of the difference of two candidates' scores.

    The cosines with prompt, negatives and references count as independent, with the weights that the score gives them.
    A taste counts as exact. None where the noise was not measured.
    """
    if match is None:
        return None
    liked = [reference.weight for reference in ranking.references if reference.weight > 0]
    unwanted = [n.weight for n in ranking.negatives] + [-r.weight for r in ranking.references if r.weight < 0]
    parts = [weight / (1 + sum(liked)) for weight in (1.0, *liked)]
    parts += [ranking.negative_weight * weight / sum(unwanted) for weight in unwanted]
    return match.noise * math.sqrt(2 * sum(part * part for part in parts))


def _probabilities(cosines: Values, slope: float, intercept: float) -> Values:
    return np.asarray(1 / (1 + np.exp(-np.clip(slope * cosines + intercept, -500, 500))))
