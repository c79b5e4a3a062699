"""What is kept of a generation's candidates: embeddings, from memory where they were asked for lately, and latents."""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Generation, Status
from app.engine.protocols import Engine
from app.errors import NotFound, NotReady, ScorerMismatch
from app.service.candidates.keys import arrays_key
from app.stores.protocols import BlobStore
from models.protocols import Embeddings

CACHE_BYTES = 64 * 2**20
"""Embeddings held in memory: 64 generations of 256 candidates in 1024 dimensions."""


class CandidateArrays:
    """The stored fields of generations that succeeded. Belongs to the event loop."""

    def __init__(self, engine: Engine, blobs: BlobStore, cache_bytes: int = CACHE_BYTES) -> None:
        self._engine = engine
        self._blobs = blobs
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[str, Embeddings] = OrderedDict()

    async def embeddings(self, generation: Generation) -> Embeddings:
        """float32 (N, D), L2-normalised; of pruned candidates from their last preview. Not to be written to.

        Raises NotReady, NotFound when they are gone, and ScorerMismatch when they are of another scorer than is loaded.
        """
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}")
        scorer = self._engine.scorer
        if (generation.scorer, generation.scorer_revision or scorer.revision) != (scorer.id, scorer.revision):
            raise ScorerMismatch(
                f"the generation was scored by {generation.scorer!r}, of other weights than the one here"
            )
        if generation.id not in self._cached:
            file = await self.read_file(generation.id)
            self._cache(generation.id, await asyncio.to_thread(_load_array, file, "embeddings"))
        self._cached.move_to_end(generation.id)
        return self._cached[generation.id]

    async def latents(self, generation: Generation, index: int, pointer: str) -> NDArray[np.float16]:
        """float16 (C, h, w) of one candidate. Raises NotReady, and NotFound with a `pointer` to the index."""
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}")
        check_index(generation, index, pointer)
        latents = await asyncio.to_thread(_load_array, await self.read_file(generation.id), "latents")
        return np.asarray(latents[index], np.float16)

    async def read_file(self, generation_id: str) -> bytes:
        """The field as it is stored. Raises NotFound when it is gone."""
        found = await self._blobs.get(arrays_key(generation_id))
        if found is None:
            raise NotFound("the files of this generation are gone")
        return found

    def _cache(self, generation_id: str, embeddings: Embeddings) -> None:
        """Keep the newest within the bound, and at least this one."""
        self._cached[generation_id] = embeddings
        while len(self._cached) > 1 and sum(e.nbytes for e in self._cached.values()) > self._cache_bytes:
            self._cached.popitem(last=False)


def check_index(generation: Generation, index: int, pointer: str | None = None) -> None:
    """Refuse a candidate that the generation does not have."""
    if not 0 <= index < len(generation.candidates):
        raise NotFound(f"the generation has {len(generation.candidates)} candidates, counted from 0", pointer=pointer)


def _load_array(field: bytes, name: str) -> NDArray[Any]:
    with np.load(io.BytesIO(field), allow_pickle=False) as arrays:
        return np.asarray(arrays[name])
