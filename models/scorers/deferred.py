"""A scorer that is listed at once and loaded when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embedder, Embeddings, Pixels, ScorerInfo, TextEmbedding


class DeferredScorer:
    """A `Deferred` embedder of the weights that `load` reads.

    The first call reads them, on its thread. Embed on the engine's thread only.
    """

    def __init__(self, info: ScorerInfo, load: Callable[[], Embedder]) -> None:
        self._info = info
        self._load = load
        self._embedder: Embedder | None = None
        self._guard = threading.Lock()

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant, and known without loading."""
        return self._info

    @property
    def is_loaded(self) -> bool:
        """See `Deferred`."""
        return self._embedder is not None

    def loaded(self) -> Embedder:
        """See `Deferred`. A second thread waits for the first one's load."""
        with self._guard:
            if self._embedder is None:
                self._embedder = self._load()
            return self._embedder

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """See `Embedder`."""
        return self.loaded().embed_images(pixels)

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """See `Embedder`."""
        return self.loaded().embed_texts(texts)

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """See `Embedder`."""
        return self.loaded().embed_patches(image)
