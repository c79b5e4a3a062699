"""Why one candidate and not another: its cosines phrase by phrase beside the field's, and where in the picture."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Generation
from app.engine.protocols import Engine
from app.engine.ranking import scoring
from app.errors import NoPatches
from app.service.candidates.arrays import Fields, check_index
from app.service.candidates.images import Gallery
from app.service.presets import Aspect, Presets, phrases
from app.service.types import ImageFile, Limits, file_of
from app.service.validation import check_text
from app.stores.protocols import Blobs, Records
from models.protocols import Embeddings

LONGEST = 32
"""Phrases that are looked at, from the first on."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a text says of one candidate: its cosine, and its `rank` by it among the field, 1 is the most like it."""

    text: str
    aspect: Aspect
    similarity: float
    rank: int


@dataclass(frozen=True, slots=True)
class Why:
    """A candidate, told phrase by phrase. `of` counts the field; pruned ones are in it by their last preview."""

    index: int
    of: int
    phrases: tuple[Told, ...]
    negatives: tuple[Told, ...]


class Explainer:
    """See the module."""

    def __init__(
        self, engine: Engine, records: Records, blobs: Blobs, fields: Fields, presets: Presets, limits: Limits
    ) -> None:
        self._engine = engine
        self._fields = fields
        self._presets = presets
        self._limits = limits
        self._gallery = Gallery(engine, records, blobs)

    @property
    def presets(self) -> Presets:
        """Words worth trying."""
        return self._presets

    async def why(self, generation: Generation, index: int, prompt: str | None = None) -> Why:
        """`prompt` None explains by what the generation was compared with. Raises NotFound, NotReady, Invalid."""
        embeddings = await self._fields.embeddings(generation)
        check_index(generation, index)
        question = generation.spec.question if prompt is None else prompt
        check_text(question, "#/prompt", self._limits, empty=False)
        said = phrases(question)[:LONGEST]
        negatives = [n.text for n in generation.spec.ranking.negatives]
        vectors = await self._engine.embed_texts([*said, *negatives])
        told = [
            Told(text, self._presets.aspect(text), *_place(embeddings, vector.vector, index))
            for text, vector in zip([*said, *negatives], vectors, strict=True)
        ]
        return Why(index, len(embeddings), tuple(told[: len(said)]), tuple(told[len(said) :]))

    async def heat(self, generation: Generation, index: int, text: str) -> ImageFile:
        """Where a text is found in a candidate's picture, as a PNG of its size: the warmer, the more alike.

        Raises NotFound, NotReady, Invalid, and NoPatches when the scorer does not see parts of a picture.
        """
        await self._fields.embeddings(generation)
        check_index(generation, index)
        check_text(text, "#/text", self._limits, empty=False)
        file = await self._gallery.image(generation, index, "png", None)
        spec = generation.spec
        pixels = await asyncio.to_thread(imaging.read_upload, file.data, spec.width * spec.height)
        patches = await self._engine.embed_patches(pixels)
        if patches is None:
            raise NoPatches(f"the scorer {generation.scorer!r} gives one embedding a picture and none of its parts")
        vector = (await self._engine.embed_texts([text]))[0].vector
        return file_of(await asyncio.to_thread(_drawn, pixels, patches @ vector), "png")


def _place(embeddings: Embeddings, vector: NDArray[np.float32], index: int) -> tuple[float, int]:
    """The cosine of candidate `index` with a text, and its rank among all; ties share the better one."""
    query = scoring.Query(vector, np.zeros((0, len(vector)), np.float32), np.zeros(0, np.float32), 0.0)
    cosines: Sequence[float] = [s.similarity for s in scoring.score(embeddings, query)]
    return cosines[index], 1 + sum(c > cosines[index] for c in cosines)


def _drawn(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    return imaging.encode(imaging.heat_map(pixels, heat), "png")
