"""Explain a candidate's score: similarity per phrase, and a heat map."""

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
from app.errors import PatchesUnsupported
from app.service.candidates.arrays import CandidateArrays, check_index
from app.service.candidates.images import CandidateImages
from app.service.candidates.keys import file_size
from app.service.presets import Aspect, Presets, split_phrases
from app.service.types import ImageFile, Limits, image_file
from app.service.validation import check_text
from models.protocols import Embeddings

MAX_PHRASES = 32
"""Number of leading phrases that are explained."""


@dataclass(frozen=True, slots=True)
class PhraseScore:
    """Cosine of a text with one candidate, and its `rank` (1 is most similar)."""

    text: str
    aspect: Aspect
    similarity: float
    rank: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A candidate's score by phrase.

    `n_candidates` includes pruned ones, by their last preview.
    """

    index: int
    n_candidates: int
    phrases: tuple[PhraseScore, ...]
    negatives: tuple[PhraseScore, ...]


class Explainer:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        images: CandidateImages,
        fields: CandidateArrays,
        presets: Presets,
        limits: Limits,
    ) -> None:
        self._engine = engine
        self._fields = fields
        self._presets = presets
        self._limits = limits
        self._images = images

    @property
    def presets(self) -> Presets:
        """The prompt presets."""
        return self._presets

    async def explain(self, generation: Generation, index: int, prompt: str | None = None) -> Explanation:
        """Explain a candidate by `prompt`; None is the ranking's prompt.

        Raises NotFound, NotReady, InvalidRequest.
        """
        embeddings = await self._fields.embeddings(generation)
        check_index(generation, index)
        ranking_prompt = generation.spec.ranking_prompt if prompt is None else prompt
        check_text(ranking_prompt, "#/prompt", self._limits, allow_empty=False)
        positives = split_phrases(ranking_prompt)[:MAX_PHRASES]
        negatives = [n.text for n in generation.spec.ranking.negatives]
        vectors = await self._engine.embed_texts([*positives, *negatives])
        scores = [
            PhraseScore(text, self._presets.aspect(text), *_cosine_and_rank(embeddings, vector.vector, index))
            for text, vector in zip([*positives, *negatives], vectors, strict=True)
        ]
        return Explanation(index, len(embeddings), tuple(scores[: len(positives)]), tuple(scores[len(positives) :]))

    async def heat_map(self, generation: Generation, index: int, text: str) -> ImageFile:
        """PNG of the candidate, in its size; warmer regions are more similar to the text.

        Raises NotFound, NotReady, InvalidRequest, and PatchesUnsupported if the scorer has no patch embeddings.
        """
        await self._fields.embeddings(generation)
        check_index(generation, index)
        check_text(text, "#/text", self._limits, allow_empty=False)
        file = await self._images.image(generation, index, "png", None)
        width, height = file_size(generation)
        pixels = await asyncio.to_thread(imaging.decode_upload, file.data, width * height)
        patches = await self._engine.embed_patches(pixels)
        if patches is None:
            raise PatchesUnsupported(
                f"scorer {generation.scorer!r} has no patch embeddings: heat maps need a scorer that has"
            )
        vector = (await self._engine.embed_texts([text]))[0].vector
        return image_file(await asyncio.to_thread(_encode_heat_map, pixels, patches @ vector), "png")


def _cosine_and_rank(embeddings: Embeddings, vector: NDArray[np.float32], index: int) -> tuple[float, int]:
    """Cosine of candidate `index` with a text, and its rank; ties share the better."""
    query = scoring.Query(vector, np.zeros((0, len(vector)), np.float32), np.zeros(0, np.float32), 0.0)
    cosines: Sequence[float] = [s.similarity for s in scoring.score_images(embeddings, query)]
    return cosines[index], 1 + sum(c > cosines[index] for c in cosines)


def _encode_heat_map(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    return imaging.encode(imaging.heat_map(pixels, heat), "png")
