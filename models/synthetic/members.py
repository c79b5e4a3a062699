"""Synthetic scorers of other kinds, for ensembles without weights.

`RandomFeatureScorer` embeds in another space than `FakeScorer`; `ColourJudge` only scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.protocols import (
    Embedder,
    Embeddings,
    Pixels,
    Scorer,
    ScorerInfo,
    ScoringInfo,
    TextEmbedding,
    to_host,
)
from models.synthetic.scorer import FakeScorer
from models.synthetic.thumbnails import thumbnail

_FEATURES = 32


class RandomFeatureScorer:
    """Random Fourier features of `FakeScorer`'s vectors.

    A wider space, where other images lead. `seed` draws the features; equal seeds give equal models.
    """

    def __init__(self, seed: int = 2) -> None:
        self._inner = FakeScorer()
        random = np.random.default_rng(seed)
        self._frequencies = 2.0 * random.standard_normal((self._inner.info.dimensions, _FEATURES))
        self._info = replace(
            self._inner.info,
            id=f"fake-{seed}",
            revision=f"features-{seed}",
            dimensions=2 * _FEATURES,
            null_mean=None,
            null_std=None,
        )

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        return self._info

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size: float32 (B, 64)."""
        return self._features(self._inner.embed_images(pixels))

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:  # noqa: ARG002
        """None: it has no patches."""
        return None

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order."""
        return [replace(each, vector=self._features(each.vector[None])[0]) for each in self._inner.embed_texts(texts)]

    def _features(self, vectors: Embeddings) -> Embeddings:
        phases = vectors.astype(np.float64) @ self._frequencies
        return np.asarray(np.concatenate([np.cos(phases), np.sin(phases)], axis=1) / np.sqrt(_FEATURES), np.float32)


class ColourJudge:
    """Scores how near an image's mean colour is to that of a text.

    0 is equal, lower is farther.
    """

    @property
    def info(self) -> ScoringInfo:
        """Name and place; constant."""
        return ScoringInfo("fake-judge", "1", "cpu")

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Scores of images, in order: float32 (B,)."""
        wanted = thumbnail(text).mean(axis=(1, 2))
        found = to_host(images).mean(axis=(1, 2)) / 127.5 - 1.0
        return np.asarray(-np.linalg.norm(found - wanted, axis=1), np.float32)


SCORER_KINDS: Mapping[str, Callable[[], Embedder | Scorer]] = {
    "fake": FakeScorer,
    "fake-2": RandomFeatureScorer,
    "fake-3": lambda: RandomFeatureScorer(3),
    "fake-judge": ColourJudge,
}
"""Synthetic scorers by name."""
