"""A candidate's image file: stored, converted, or decoded again from latents."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Candidate, Generation
from app.engine.protocols import Engine
from app.errors import InvalidRequest, NotFound, StoreUnavailable
from app.service.candidates.inputs import load_inputs
from app.service.candidates.keys import arrays_key, blob_prefix, file_size, image_key, image_metadata
from app.service.types import ImageFile, image_file
from app.stores.protocols import BlobStore, GenerationStore
from models.protocols import GeneratorInfo

LOSSLESS_FORMATS = frozenset({"png", "webp"})
"""Stored formats from which other formats are converted."""


def made_by(generator: GeneratorInfo, generation: Generation) -> bool:
    """Whether this generator, with these weights, made the generation's latents."""
    made = generation.model, generation.model_revision or generator.revision
    return made == (generator.id, generator.revision)


def resized(image: NDArray[np.uint8], generation: Generation) -> NDArray[np.uint8]:
    """A sampled image (H, W, 3), cropped and scaled to the files' size (Lanczos)."""
    return image if generation.output_size is None else imaging.crop_to_fill(image, generation.output_size)


class CandidateImages:
    """Images of succeeded generations."""

    def __init__(self, engine: Engine, records: GenerationStore, blobs: BlobStore) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs

    async def image(
        self, generation: Generation, index: int, output_format: str, size: tuple[int, int] | None
    ) -> ImageFile:
        """Image of candidate `index`, scaled down to fit `size`.

        Raises NotFound and InvalidRequest.
        """
        if not 0 <= index < len(generation.candidates):
            raise NotFound(f"no candidate {index}: indices are 0 to {len(generation.candidates) - 1}")
        width, height = file_size(generation)
        if size is not None and (size[0] > width or size[1] > height):
            raise InvalidRequest(f"size exceeds the image: request at most {width}x{height}", pointer="#/size")
        if size in (None, (width, height)):
            return image_file(await self._encoded(generation, index, output_format), output_format)
        pixels = await self._pixels(generation, index)
        data = await asyncio.to_thread(_encode_resized, pixels, size, output_format)
        return image_file(data, output_format)

    async def _encoded(self, generation: Generation, index: int, output_format: str) -> bytes:
        key = image_key(generation.id, index, output_format)
        stored = await self._blobs.get(key)
        if stored is not None:
            return stored
        candidate = generation.candidates[index]
        pixels = await self._pixels(generation, index)
        data = await asyncio.to_thread(imaging.encode, pixels, output_format, image_metadata(generation, candidate))
        with suppress(StoreUnavailable):  # the answer does not depend on caching
            await self._blobs.put(key, data)
        if not await self._records.existing_ids([generation.id]):
            await self._blobs.delete_prefix(blob_prefix(generation.id))
            raise NotFound("the generation was deleted: generate again")
        return data

    async def _pixels(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), from a lossless stored file or the stored latents."""
        candidate: Candidate = generation.candidates[index]
        if candidate.rank is not None and generation.output_format in LOSSLESS_FORMATS:
            stored = await self._blobs.get(image_key(generation.id, index, generation.output_format))
            if stored is not None:
                width, height = file_size(generation)
                return await asyncio.to_thread(imaging.decode_upload, stored, width * height, None)
        return await asyncio.to_thread(resized, await self._decoded(generation, index), generation)

    async def sampled(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """Candidate `index` in the sampled size, uint8 (H, W, 3).

        The generation has succeeded. It is the stored image if that is lossless and has this size. Raises NotFound.
        """
        if generation.output_size is None:
            return await self._pixels(generation, index)
        return await self._decoded(generation, index)

    async def _decoded(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) from the stored latents, in the sampled size."""
        if not made_by(self._engine.generator, generation):
            raise NotFound(
                f"this image was not stored; decoding it needs model {generation.model!r} with the generation's weights"
            )
        field = await self._blobs.get(arrays_key(generation.id))
        if field is None:
            raise NotFound("the generation's files are gone: generate again")
        latents = await asyncio.to_thread(_load_latents, field)
        decoded: NDArray[np.uint8] = (await self._engine.decode(latents[index : index + 1]))[0]
        inputs = await load_inputs(self._blobs, generation.spec)
        if inputs is not None and inputs.inpainting is not None:
            decoded = await asyncio.to_thread(inputs.inpainting.paste, decoded)
        return decoded


def _load_latents(field: bytes) -> NDArray[np.float16]:
    with np.load(io.BytesIO(field), allow_pickle=False) as arrays:
        return np.asarray(arrays["latents"])


def _encode_resized(pixels: NDArray[np.uint8], size: tuple[int, int], output_format: str) -> bytes:
    return imaging.encode(imaging.resize(pixels, size), output_format, None)
