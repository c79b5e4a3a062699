"""Scores whether two things are where a prompt puts them. Without torch.

An embedding of a whole image hardly depends on which thing is left or right, above or below. So another scorer embeds
each half of the image, and the thing that belongs there. Parts of a prompt are checked apart as by Singh and Zheng
(2023, arXiv 2307.04749), who ask a model questions instead.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.errors import ScoringFailed
from models.protocols import Embedder, Embeddings, Images, Pixels, ScoringInfo, to_host
from models.reading.positions import FORMS, Arrangement, Region, read_arrangement

_METHOD = "layout 1"
"""Other scores of the same embedder need another number."""


class LayoutScorer:
    """Compares each thing with its half of the image; the smaller cosine counts."""

    def __init__(self, embedder: Embedder, *, id: str) -> None:
        self._embedder = embedder
        digest = hashlib.sha256(f"{_METHOD} {embedder.info.revision}".encode()).hexdigest()
        self._info = ScoringInfo(id, digest[:12], embedder.info.device, light=True)

    @property
    def info(self) -> ScoringInfo:
        """Name and traits; constant."""
        return self._info

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Cosines from -1 to 1 for images (B, H, W, 3) of one size: float32 (B,).

        Where several arrangements are right, the best one counts. Raises `OutOfMemory`, and `ScoringFailed` for a text
        that does not say where two things are.
        """
        stated = read_arrangement(text) or self._understood(text)
        if stated is None:
            raise ScoringFailed(
                "no_positions", f"the text does not say where two things are; use a form such as {FORMS}"
            )
        first, second = (each.vector for each in self._embedder.embed_texts([stated.first, stated.second]))
        whole = to_host(images)
        regions = {region for pair in stated.places for region in pair}
        halves = {region: self._embedder.embed_images(_half(whole, region)) for region in regions}
        each = [np.minimum(_cosines(halves[a], first), _cosines(halves[b], second)) for a, b in stated.places]
        return np.asarray(np.max(each, axis=0), np.float32)

    def _understood(self, text: str) -> Arrangement | None:
        """The arrangement in the caption that the embedder reads a text as, if it does."""
        (embedded,) = self._embedder.embed_texts([text])
        return read_arrangement(embedded.reading.understood) if embedded.reading is not None else None


def _half(images: Images, region: Region) -> Images:
    """A half of images (B, H, W, 3), stretched to their size by doubled pixels."""
    axis = 2 if region in {"left", "right"} else 1
    size = images.shape[axis]
    kept = max(1, size // 2)
    places = range(kept) if region in {"left", "top"} else range(size - kept, size)
    return np.repeat(images.take(places, axis=axis), 2, axis=axis)


def _cosines(images: Embeddings, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.multiply(images, vector).sum(axis=1), np.float32)
