"""Stored arrays of a generation's candidates: cached embeddings, and latents."""

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
from app.service.candidates.keys import arrays_key, member_array
from app.stores.protocols import BlobStore
from models.protocols import Embeddings

CACHE_BYTES = 64 * 2**20
"""Embedding cache: 64 generations of 256 candidates in 1024 dimensions."""


MAIN = "embeddings"
"""Name of the array with the main scorer's embeddings."""


class CandidateArrays:
    """Stored arrays of succeeded generations. Use in one event loop."""

    def __init__(self, engine: Engine, blobs: BlobStore, cache_bytes: int = CACHE_BYTES) -> None:
        self._engine = engine
        self._blobs = blobs
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[str, dict[str, Embeddings]] = OrderedDict()

    async def embeddings(self, generation: Generation) -> Embeddings:
        """Read-only float32 (N, D), L2-normalised.

        Pruned candidates use their last preview. Raises NotReady, NotFound if the files are gone, and ScorerMismatch if
        another scorer is loaded.
        """
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}: wait until it has succeeded")
        scorer = self._engine.scorer
        if (generation.scorer, generation.scorer_revision or scorer.revision) != (scorer.id, scorer.revision):
            raise ScorerMismatch(
                f"scorer {generation.scorer!r} with the generation's weights is not loaded: load it or generate again"
            )
        return (await self._arrays(generation.id))[MAIN]

    async def members(self, generation: Generation) -> dict[str, Embeddings]:
        """Read-only float32 (N, D) of each loaded member that judged, by name.

        NaN for candidates it did not judge.

        Raises as `embeddings`.
        """
        await self.embeddings(generation)
        stored = await self._arrays(generation.id)
        names = {each.info.id: member_array(each.info.id, each.info.revision) for each in self._engine.panel}
        return {name: stored[key] for name, key in names.items() if key in stored}

    async def _arrays(self, generation_id: str) -> dict[str, Embeddings]:
        """All stored embeddings by array name."""
        if generation_id not in self._cached:
            self._cache(generation_id, await asyncio.to_thread(_load_embeddings, await self.read_file(generation_id)))
        self._cached.move_to_end(generation_id)
        return self._cached[generation_id]

    async def latents(self, generation: Generation, index: int, pointer: str) -> NDArray[np.float16]:
        """float16 (C, h, w) of one candidate.

        Raises NotReady, and NotFound with a `pointer` to the index.
        """
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}: wait until it has succeeded")
        check_index(generation, index, pointer)
        latents = await asyncio.to_thread(_load_array, await self.read_file(generation.id), "latents")
        return np.asarray(latents[index], np.float16)

    async def read_file(self, generation_id: str) -> bytes:
        """The stored arrays file. Raises NotFound if it is gone."""
        found = await self._blobs.get(arrays_key(generation_id))
        if found is None:
            raise NotFound("the generation's files are gone: generate again")
        return found

    def _cache(self, generation_id: str, arrays: dict[str, Embeddings]) -> None:
        """Cache them, evicting the oldest above the limit; always keeps these."""
        self._cached[generation_id] = arrays
        while len(self._cached) > 1 and sum(map(_bytes, self._cached.values())) > self._cache_bytes:
            self._cached.popitem(last=False)


def check_index(generation: Generation, index: int, pointer: str | None = None) -> None:
    """Reject an index without a candidate, or of a candidate without an image."""
    if not 0 <= index < len(generation.candidates):
        raise NotFound(f"no candidate {index}: indices are 0 to {len(generation.candidates) - 1}", pointer=pointer)
    if (failure := generation.candidates[index].failure) is not None:
        raise NotFound(f"candidate {index} has no image ({failure}): use another one", pointer=pointer)


def _bytes(arrays: dict[str, Embeddings]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _load_embeddings(file: bytes) -> dict[str, Embeddings]:
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        return {name: np.asarray(arrays[name]) for name in arrays.files if name != "latents"}


def _load_array(field: bytes, name: str) -> NDArray[Any]:
    with np.load(io.BytesIO(field), allow_pickle=False) as arrays:
        return np.asarray(arrays[name])
