"""The preview head: its fit from full runs, and the estimate of final embeddings.

Pure NumPy. The final score within a prompt is a ridge regression (Hoerl and Kennard 1970). It knows the preview's
score, its guidance gap, and products of components of the prompt's and the preview's embeddings. The products are a
low-rank bilinear form, so they act as a correction of the preview's embedding. Every query can score the corrected one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.engine.pruning.trajectory import Trajectory
from models.protocols import PreviewHead, packed

Array = NDArray[np.float64]

FOLDS = 6
"""Parts of the prompts; each is predicted by a fit of the others."""

RANKS = (16, 32)
"""Components of prompts and of previews that are multiplied."""

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Penalties of the products, in units of the mean square of a component.

One holds for all steps: the one with the least error on prompts that were not fitted.
"""

SINGULAR = 1e-9
"""Keeps a regression on constant columns solvable."""

SURE = 2.0
"""Standard errors by which the head's squared error must be lower.

With one, some of many steps would use a head by chance.
"""

MIN_GAIN = 0.02
"""Share by which the head's squared error must be lower."""

MIN_WEIGHT = 0.05
"""Least weight of the preview's score in a fit.

The correction is divided by it.
"""


@dataclass(frozen=True, slots=True, eq=False)
class FittedHead:
    """A head with its fit: `weights` (steps, 2) of preview score and gap.

    `predictions` are final scores after each step of each field, less the field's mean, by a fit of other prompts.
    """

    head: PreviewHead
    weights: Array
    predictions: tuple[tuple[Array, ...], ...]


def fit_head(trajectories: Sequence[Trajectory]) -> FittedHead | None:
    """Fit a head, and decide after which steps it is used.

    It is used where its squared error is surely lower than the linear fit's, on prompts that were not fitted: by `SURE`
    standard errors over prompts, and by `MIN_GAIN`. None for traces without embeddings, and for fewer than `FOLDS`
    prompts.
    """
    if len(trajectories) < FOLDS or any(t.embeddings is None or t.prompt is None for t in trajectories):
        return None
    steps = len(trajectories[0].previews)
    linear = [[np.zeros(0)] * len(trajectories) for _ in range(steps)]
    products = {penalty: [[np.zeros(0)] * len(trajectories) for _ in range(steps)] for penalty in PENALTIES}
    for fold in range(FOLDS):
        others = [t for place, t in enumerate(trajectories) if place % FOLDS != fold]
        model = _Basis.of(others)
        fitted, held = model.project(others), model.project(trajectories[fold::FOLDS])
        for step in range(steps):
            known, unknown = fitted.at(step), held.at(step)
            _put(linear[step], fold, unknown.split(unknown.known[:, :2] @ known.least_squares()))
            for penalty, weights in zip(PENALTIES, known.ridge(PENALTIES), strict=True):
                _put(products[penalty][step], fold, unknown.split(unknown.known @ weights))
    finals = [t.finals - t.finals.mean() for t in trajectories]
    linear_errors = _squared_errors(linear, finals)
    errors = {penalty: _squared_errors(predictions, finals) for penalty, predictions in products.items()}
    penalty = min(PENALTIES, key=lambda p: float(np.sqrt(errors[p][:-1].mean(axis=1)).sum()))
    used = _is_lower(errors[penalty], linear_errors)
    return _fit_all(trajectories, penalty, used, linear_errors, errors[penalty], products[penalty])


def estimate(head: PreviewHead, place: float, embedding: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the final embedding (D,) estimated from a preview's (D,).

    `place` counts the steps of the calibration from 0; between two steps their maps are mixed. None where neither is
    used. The bits do not depend on other rows.
    """
    shares = ((int(place), 1 - place % 1), (int(place) + 1, place % 1))
    near = [(step, np.float32(share)) for step, share in shares if share > 0 and head.used[step]]
    if not near:
        return None
    texts, images, maps = _arrays(head)
    mapping = np.sum([share * maps[step] for step, share in near], axis=0)
    return np.asarray(embedding + texts @ (mapping @ (images.T @ embedding)), np.float32)


@lru_cache(maxsize=16)
def _arrays(head: PreviewHead) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    return head.arrays()


def _fit_all(
    trajectories: Sequence[Trajectory],
    penalty: float,
    used: NDArray[np.bool_],
    linear_errors: Array,
    errors: Array,
    predictions: Sequence[Sequence[Array]],
) -> FittedHead:
    """Fit the steps that are used to all prompts."""
    basis = _Basis.of(trajectories)
    fitted = basis.project(trajectories)
    weights = np.zeros((len(used), 2))
    maps = np.zeros((len(used), basis.texts.shape[1], basis.images.shape[1]))
    for step in map(int, np.flatnonzero(used)):
        (found,) = fitted.at(step).ridge((penalty,))
        weights[step] = found[:2]
        used[step] = found[0] >= MIN_WEIGHT
        if used[step]:
            maps[step] = found[2:].reshape(maps.shape[1:]) / found[0]
    rank = slice(None) if used.any() else slice(0)
    texts, images, maps = basis.texts[:, rank], basis.images[:, rank], maps[:, rank, rank]
    head = PreviewHead(
        len(texts),
        (texts.shape[1], images.shape[1]),
        tuple(map(bool, used)),
        _root_means(linear_errors),
        _root_means(errors),
        *(packed(part) for part in (texts, images, maps[used])),
    )
    return FittedHead(head, weights, tuple(map(tuple, predictions)))


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """Directions in which prompts, and previews within a prompt, differ most: (D, R)."""

    texts: Array
    images: Array

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> _Basis:
        texts = np.stack([t.prompt for t in trajectories if t.prompt is not None]).astype(np.float64)
        finals = np.concatenate([_centred(t.embeddings[-1]) for t in trajectories if t.embeddings is not None])
        return cls(*(_directions(part, rank) for part, rank in zip((texts, finals), RANKS, strict=True)))

    def project(self, trajectories: Sequence[Trajectory]) -> _Projected:
        """Return the components of prompts and previews."""
        texts = [self.texts.T @ t.prompt for t in trajectories if t.prompt is not None]
        images = [_centred(t.embeddings) @ self.images for t in trajectories if t.embeddings is not None]
        return _Projected(trajectories, texts, images)


@dataclass(frozen=True, slots=True, eq=False)
class _Projected:
    """Traces with the components of their prompts (R,) and previews (steps, N, R)."""

    trajectories: Sequence[Trajectory]
    texts: Sequence[Array]
    images: Sequence[Array]

    def at(self, step: int) -> _Regression:
        """Return what is known after a step."""
        rows = []
        for trajectory, text, images in zip(self.trajectories, self.texts, self.images, strict=True):
            scores = (trajectory.previews[step], trajectory.guidance_gaps[step])
            products = np.einsum("i,nj->nij", text, images[step]).reshape(len(images[step]), -1)
            rows.append(np.concatenate([np.stack([_centred(s) for s in scores], axis=1), products], axis=1))
        finals = [_centred(t.finals) for t in self.trajectories]
        return _Regression(np.concatenate(rows), np.concatenate(finals), [len(f) for f in finals])


@dataclass(frozen=True, slots=True, eq=False)
class _Regression:
    """Known values (K, 2 + products) of candidates and their finals (K,).

    `sizes` are the candidates of each field.
    """

    known: Array
    finals: Array
    sizes: Sequence[int]

    def least_squares(self) -> Array:
        """Return the weights (2,) of preview score and gap alone."""
        return np.asarray(np.linalg.lstsq(self.known[:, :2], self.finals, rcond=None)[0])

    def ridge(self, penalties: Sequence[float]) -> Iterator[Array]:
        """Yield the weights of all columns for each penalty of the products."""
        squares, towards = self.known.T @ self.known, self.known.T @ self.finals
        unit = np.trace(squares[2:, 2:]) / min(len(self.finals), len(squares) - 2)
        diagonal = np.full(len(squares), SINGULAR + SINGULAR * np.trace(squares[:2, :2]))
        for penalty in penalties:
            diagonal[2:] = SINGULAR + penalty * unit
            yield np.asarray(np.linalg.solve(squares + np.diag(diagonal), towards), np.float64)

    def split(self, values: Array) -> list[Array]:
        """Return the values of each field."""
        return np.split(values, np.cumsum(self.sizes)[:-1])


def _put(found: list[Array], fold: int, values: Sequence[Array]) -> None:
    found[fold::FOLDS] = values


def _squared_errors(predictions: Sequence[Sequence[Array]], finals: Sequence[Array]) -> Array:
    """Return the mean squared errors (steps, prompts)."""
    return np.asarray([[float(np.mean((p - f) ** 2)) for p, f in zip(at, finals, strict=True)] for at in predictions])


def _root_means(errors: Array) -> tuple[float, ...]:
    """Return the root of the mean over prompts, by step."""
    return tuple(round(float(value), 6) for value in np.sqrt(errors.mean(axis=1)))


def _is_lower(errors: Array, than: Array) -> NDArray[np.bool_]:
    """Return after which steps errors (steps, prompts) are surely lower."""
    gains = than - errors
    enough = np.maximum(SURE * gains.std(axis=1, ddof=1) / np.sqrt(gains.shape[1]), MIN_GAIN * than.mean(axis=1))
    return np.asarray(gains.mean(axis=1) > enough)


def _directions(rows: Array, rank: int) -> Array:
    """Return the first right singular vectors (D, at most `rank`)."""
    return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :rank])


def _centred(values: NDArray[np.floating]) -> Array:
    """Subtract the mean over candidates, the last axis but one of embeddings."""
    axis = 0 if values.ndim == 1 else -2
    return np.asarray(values.astype(np.float64) - values.mean(axis=axis, keepdims=True, dtype=np.float64))
