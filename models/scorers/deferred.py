"""A scorer that is listed at once and loaded when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embedder, Embeddings, Pixels, ScorerInfo, TextEmbedding


class DeferredScorer:
    """An `Embedder` whose weights `load` reads on the first call. Engine thread only.

    A first call can also raise the errors of `models.errors`; the next call then tries again.
    """

    def __init__(self, info: ScorerInfo, load: Callable[[], Embedder]) -> None:
        self._info = info
        self._load = load

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant, and known without loading."""
        return self._info

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return "_embedder" in self.__dict__

    @cached_property
    def _embedder(self) -> Embedder:
        return self._load()

    def loaded(self) -> Embedder:
        """The scorer behind it, loaded now if it was not.

        Raises the errors of `models.errors`.
        """
        return self._embedder

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """See `Embedder`."""
        return self._embedder.embed_images(pixels)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """See `Embedder`."""
        return self._embedder.embed_texts(texts)

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """See `Embedder`."""
        return self._embedder.embed_patches(image)
