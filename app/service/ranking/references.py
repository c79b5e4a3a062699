"""From pictures that a request refers to, to references that a ranking can count with."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain import Generation, Reference
from app.engine.protocols import Engine
from app.errors import FrontrunnerError, Invalid
from app.service.candidates.arrays import Fields, check_index
from app.service.types import Limits

LARGEST_WEIGHT = 10.0
"""The prompt has weight 1: beyond this it would count for nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class AskedReference:
    """A picture and how much it counts: an upload (H, W, 3), or candidate `index` of `generation`."""

    weight: float
    image: NDArray[np.uint8] | None = None
    generation: str | None = None
    index: int = 0


class References:
    """Looks references up. `get` gives a generation that the caller may see, or raises NotFound."""

    def __init__(
        self, engine: Engine, fields: Fields, limits: Limits, get: Callable[[str], Awaitable[Generation]]
    ) -> None:
        self._engine = engine
        self._fields = fields
        self._limits = limits
        self._get = get

    async def __call__(self, asked: Sequence[AskedReference], base: str) -> tuple[Reference, ...]:
        """References in order; uploads are embedded together. `base` points at the list in the body.

        Raises Invalid, and NotFound, NotReady or OtherScorer with a pointer to the one that cannot be had.
        """
        if len(asked) > self._limits.references:
            raise Invalid(f"at most {self._limits.references} references are taken", pointer=base)
        for place, one in enumerate(asked):
            if one.weight == 0 or not math.isfinite(one.weight) or abs(one.weight) > LARGEST_WEIGHT:
                raise Invalid(
                    f"a weight lies between -{LARGEST_WEIGHT:g} and {LARGEST_WEIGHT:g} and is not 0",
                    pointer=f"{base}/{place}/weight",
                )
        uploads = [one.image for one in asked if one.image is not None]
        embedded = iter(await self._engine.embed_images(uploads) if uploads else ())
        return tuple(
            [
                Reference(one.weight, _tuple(next(embedded)))
                if one.image is not None
                else await self._candidate(one, f"{base}/{place}")
                for place, one in enumerate(asked)
            ]
        )

    async def _candidate(self, one: AskedReference, pointer: str) -> Reference:
        assert one.generation is not None
        try:
            generation = await self._get(one.generation)
            embeddings = await self._fields.embeddings(generation)
        except FrontrunnerError as error:
            error.pointer = error.pointer or f"{pointer}/generation"
            raise
        check_index(generation, one.index, f"{pointer}/index")
        return Reference(one.weight, _tuple(embeddings[one.index]), one.generation, one.index)


def _tuple(vector: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(vector.tolist())
