"""Resolve the images that a request refers to into ranking references."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain import Generation, Ranking, Reference
from app.engine.protocols import Engine
from app.errors import FrontrunnerError, InvalidRequest
from app.service.candidates.arrays import CandidateArrays, check_index
from app.service.types import Limits

MAX_WEIGHT = 10.0
"""Maximum weight; the prompt has weight 1 and would not count beyond."""


@dataclass(frozen=True, slots=True, eq=False)
class UnresolvedReference:
    """An upload (H, W, 3) or candidate `index` of `generation`, with its weight."""

    weight: float
    image: NDArray[np.uint8] | None = None
    generation: str | None = None
    index: int = 0


class ReferenceResolver:
    """Resolves references.

    `get` returns a generation that the caller may see, or raises NotFound.
    """

    def __init__(
        self, engine: Engine, fields: CandidateArrays, limits: Limits, get: Callable[[str], Awaitable[Generation]]
    ) -> None:
        self._engine = engine
        self._fields = fields
        self._limits = limits
        self._get = get

    async def __call__(
        self, references: Sequence[UnresolvedReference], base: str, ranking: Ranking
    ) -> tuple[Reference, ...]:
        """References in order; uploads are embedded by the scorers of the `ranking`.

        `base` points at the list.

        Raises InvalidRequest. NotFound, NotReady and ScorerMismatch point at the failing reference.
        """
        if len(references) > self._limits.references:
            raise InvalidRequest(
                f"{len(references)} references were sent; send at most {self._limits.references}", pointer=base
            )
        for place, reference in enumerate(references):
            if reference.weight == 0 or not math.isfinite(reference.weight) or abs(reference.weight) > MAX_WEIGHT:
                raise InvalidRequest(
                    f"weight must be between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g} and not 0",
                    pointer=f"{base}/{place}/weight",
                )
        uploads = [one.image for one in references if one.image is not None]
        embedded = iter(await self._embed(uploads, ranking) if uploads else ())
        return tuple(
            [
                replace(next(embedded), weight=one.weight)
                if one.image is not None
                else await self._candidate(one, f"{base}/{place}")
                for place, one in enumerate(references)
            ]
        )

    async def _embed(self, uploads: Sequence[NDArray[np.uint8]], ranking: Ranking) -> list[Reference]:
        """References of weight 0 to uploads, with vectors of the ranking's scorers."""
        main, used = await self._engine.embed_images(uploads), ranking.weights(self._engine.scorer.id)
        members = {
            each.info.id: await self._engine.embed_images(uploads, each.info.id)
            for each in self._engine.panel
            if each.role == "member" and each.embeds and each.info.id in used
        }
        return [
            Reference(0.0, _tuple(vector), members={name: _tuple(own[place]) for name, own in members.items()})
            for place, vector in enumerate(main)
        ]

    async def _candidate(self, one: UnresolvedReference, pointer: str) -> Reference:
        assert one.generation is not None
        try:
            generation = await self._get(one.generation)
            embeddings = await self._fields.embeddings(generation)
            members = await self._fields.members(generation)
        except FrontrunnerError as error:
            error.pointer = error.pointer or f"{pointer}/generation"
            raise
        check_index(generation, one.index, f"{pointer}/index")
        own = {
            name: _tuple(vectors[one.index])
            for name, vectors in members.items()
            if np.isfinite(vectors[one.index]).all()
        }
        return Reference(one.weight, _tuple(embeddings[one.index]), one.generation, one.index, own)


def _tuple(vector: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(vector.tolist())
