"""Embeddings of texts and images by a scorer, for search outside this service."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Notice
from app.engine.notices import truncation_notice, unrecognised
from app.engine.protocols import Engine
from app.engine.texts.readings import reading_notices
from app.errors import InvalidRequest
from app.service.types import Limits
from app.service.validation import check_text
from models.protocols import Embeddings, ScorerInfo

TEXTS_AT_ONCE = 64
"""Texts per device call; generations step between two calls."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """L2-normalised vectors float32 (N, D) in input order, and notices on texts."""

    vectors: Embeddings
    notices: tuple[Notice, ...]


class Embedder:
    """Embeds texts and images with the scorers of an engine."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def embed(
        self,
        inputs: Sequence[str | None],
        pointers: Sequence[str],
        images: AsyncIterable[list[NDArray[np.uint8]]],
        scorer: ScorerInfo,
    ) -> Embedded:
        """Embed the inputs with a scorer of the engine.

        An input is a text, or None for the next of `images` (H, W, 3). A batch is released after use. `pointers` are
        the JSON pointers of the inputs in the body. Raises InvalidRequest, Loading, EngineDead, EngineFailed if the
        scorer cannot be loaded, and the errors of `images`.
        """
        texts = [text for text in inputs if text is not None]
        image_places = [place for place, text in enumerate(inputs) if text is None]
        if len(image_places) > self._limits.images:
            raise InvalidRequest(
                f"the input has more than {self._limits.images} images: send fewer", pointer=pointers[image_places[-1]]
            )
        if len(texts) > self._limits.texts:
            raise InvalidRequest(
                f"the input has more than {self._limits.texts} texts: send fewer", pointer=pointers[-1]
            )
        for text, pointer in zip(inputs, pointers, strict=True):
            if text is not None:
                check_text(text, pointer, self._limits, allow_empty=False)
        vectors = np.empty((len(inputs), scorer.dimensions), np.float32)
        places = [i for i, text in enumerate(inputs) if text is not None]
        notices = await self._embed_texts(texts, vectors, places, scorer.id)
        done = 0
        async for batch in images:
            found = await self._engine.embed_images(batch, scorer.id)
            batch.clear()
            vectors[image_places[done : done + len(found)]] = found
            done += len(found)
        return Embedded(vectors, notices)

    async def _embed_texts(
        self, texts: Sequence[str], vectors: Embeddings, places: Sequence[int], scorer: str
    ) -> tuple[Notice, ...]:
        notices: list[Notice] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = texts[start : start + TEXTS_AT_ONCE]
            found = await self._engine.embed_texts(some, scorer)
            vectors[list(places[start : start + TEXTS_AT_ONCE])] = np.stack([one.vector for one in found])
            for text, one in zip(some, found, strict=True):
                if one.truncation is not None:
                    notices.append(truncation_notice("scorer", text, one.truncation))
                notices += reading_notices([("scorer", text, one.reading)])
                notices += [replace(n, code="text_not_recognised") for n in unrecognised([text], [one])]
        return tuple(notices)
