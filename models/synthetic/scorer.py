"""An `Embedder` in NumPy, without weights: four-colour thumbnails."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embeddings, Images, Pixels, ScorerInfo, TextEmbedding, to_host
from models.synthetic.thumbnails import Array, thumbnail, truncate, truncation

HEADROOM = 0.1


class FakeScorer:
    """Compares the colours of an image's four quarters with those of a text.

    `token_limit` counts words plus two.
    """

    def __init__(self, *, token_limit: int = 16) -> None:
        self._info = ScorerInfo(
            id="fake",
            revision="1",
            dimensions=13,
            image_size=2,
            token_limit=token_limit,
            logit_scale=20.0,
            device="cpu",
            null_mean=0.0,
            null_std=0.4,
        )

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        return self._info

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size: float32 (B, 13)."""
        return _unit(_quarters(to_host(pixels)))

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Embeddings of the four quarters (2, 2, 13), each as an image of its mean colour."""
        quarters = _quarters(image[None])[0].transpose(1, 2, 0).reshape(4, 3, 1, 1)
        return _unit(quarters.repeat(2, 2).repeat(2, 3)).reshape(2, 2, -1)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order."""
        limit = self._info.token_limit
        return [
            TextEmbedding(
                _unit(thumbnail(truncate(text, limit))[None])[0],
                truncation(text, limit),
                recognised=re.search(r"\w", text) is not None,
            )
            for text in texts
        ]


def _quarters(images: Images) -> Array:
    """Mean colours of the four quarters: (B, 3, 2, 2) in -1..1.

    An image that is one pixel wide or high is doubled first.
    """
    if min(images.shape[1:3]) < 2:
        images = images.repeat(2, 1).repeat(2, 2)
    halves = [np.array_split(half, 2, axis=2) for half in np.array_split(images, 2, axis=1)]
    means = np.array([[part.mean(axis=(1, 2)) for part in half] for half in halves])
    return np.asarray(means.transpose(2, 3, 0, 1) / 127.5 - 1.0)


def _unit(pictures: Array) -> Embeddings:
    """Unit vectors float32 (B, 13); the last component gives grey a direction."""
    flat = pictures.reshape(len(pictures), -1)
    vectors = np.concatenate([flat, np.full((len(flat), 1), HEADROOM)], axis=1)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
