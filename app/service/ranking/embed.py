"""Texts and images as vectors of the scorer's space, for searches that live elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Notice
from app.engine.notices import truncation_notice, unrecognised
from app.engine.protocols import Engine
from app.errors import InvalidRequest
from app.service.types import Limits
from app.service.validation import check_text
from models.protocols import Embeddings

TEXTS_AT_ONCE = 64
"""Texts of one device call: generations are stepped between two."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Vectors float32 (N, D), L2-normalised, in the order of the inputs, and what was lost of the texts."""

    vectors: Embeddings
    notices: tuple[Notice, ...]


class Embedder:
    """See the module."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def embed(
        self, inputs: Sequence[str | None], pointers: Sequence[str], images: AsyncIterable[list[NDArray[np.uint8]]]
    ) -> Embedded:
        """Texts, and where an input is None the next one of `images`, (H, W, 3); a batch is dropped after its use.

        `pointers` say where the inputs are in the body. Raises InvalidRequest, Loading, EngineDead, and what `images`
        raises.
        """
        texts = [text for text in inputs if text is not None]
        pictured = [place for place, text in enumerate(inputs) if text is None]
        if len(pictured) > self._limits.images:
            raise InvalidRequest(f"at most {self._limits.images} images are taken", pointer=pointers[pictured[-1]])
        if len(texts) > self._limits.texts:
            raise InvalidRequest(f"at most {self._limits.texts} texts are taken", pointer=pointers[-1])
        for text, pointer in zip(inputs, pointers, strict=True):
            if text is not None:
                check_text(text, pointer, self._limits, allow_empty=False)
        vectors = np.empty((len(inputs), self._engine.scorer.dimensions), np.float32)
        notices = await self._embed_texts(texts, vectors, [i for i, text in enumerate(inputs) if text is not None])
        done = 0
        async for batch in images:
            found = await self._engine.embed_images(batch)
            batch.clear()
            vectors[pictured[done : done + len(found)]] = found
            done += len(found)
        return Embedded(vectors, notices)

    async def _embed_texts(
        self, texts: Sequence[str], vectors: Embeddings, places: Sequence[int]
    ) -> tuple[Notice, ...]:
        notices: list[Notice] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            found = await self._engine.embed_texts(some)
            vectors[list(places[start : start + TEXTS_AT_ONCE])] = np.stack([one.vector for one in found])
            for text, one in zip(some, found, strict=True):
                if one.truncation is not None:
                    notices.append(truncation_notice("scorer", text, one.truncation))
                notices += [replace(n, code="text_not_recognised") for n in unrecognised([text], [one])]
        return tuple(notices)
