"""A candidate's image file: stored, converted, or decoded again from latents."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Candidate, Generation, Provenance, Safety, SafetyVerdict
from app.engine.protocols import Engine
from app.errors import EngineFailed, ImageWithheld, InvalidRequest, NotFound, StoreUnavailable
from app.imaging.provenance import Parent
from app.service.candidates.arrays import check_index
from app.service.candidates.inputs import load_inputs
from app.service.candidates.keys import (
    arrays_key,
    blob_prefix,
    file_metadata,
    file_size,
    image_key,
    upscaled_key,
)
from app.service.candidates.safety import SafetyChecker
from app.service.candidates.sealing import RESIZED, FileSealer, parent_file
from app.service.candidates.upscaling import LANCZOS, Enlargement, ImageUpscaler, file_enlargement, file_scale
from app.service.ids import base_name
from app.service.types import ImageFile, Limits, image_file
from app.stores.protocols import BlobStore, GenerationStore
from models.protocols import GeneratorInfo

LOSSLESS_FORMATS = frozenset({"png", "webp"})
"""Stored formats from which other formats are converted."""


def made_by(generator: GeneratorInfo, generation: Generation) -> bool:
    """Whether this generator, with these weights, made the generation's latents."""
    made = base_name(generation.model), generation.model_revision or generator.revision
    return made == (base_name(generator.id), generator.revision)


def missing_weights(generation: Generation) -> str:
    """Which weights a generation needs that are not loaded, for an error."""
    revision = f", revision {generation.model_revision!r}," if generation.model_revision else " of then"
    return f"the weights of model {generation.model!r}{revision} are not served"


def resized(image: NDArray[np.uint8], generation: Generation) -> NDArray[np.uint8]:
    """A sampled image (H, W, 3), cropped and scaled to the files' size (Lanczos)."""
    return image if generation.output_size is None else imaging.crop_to_fill(image, generation.output_size)


class CandidateImages:
    """Images of succeeded generations.

    Every image that leaves the service comes from here, so safety is checked here.
    """

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        limits: Limits,
        safety: SafetyChecker,
        upscaler: ImageUpscaler | None = None,
        sealer: FileSealer | None = None,
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._limits = limits
        self._safety = safety
        self._upscaler = upscaler or ImageUpscaler(engine)
        self._sealer = sealer or FileSealer()
        self._upscaling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def image(
        self, generation: Generation, index: int, output_format: str, size: tuple[int, int] | None
    ) -> ImageFile:
        """Image of candidate `index`, scaled to fit `size`.

        The upscaler enlarges returned candidates; Lanczos filtering the others. Raises NotFound, InvalidRequest, and
        ImageWithheld.
        """
        check_index(generation, index)
        await self.require_unflagged(generation, index)
        width, height = file_size(generation)
        made = file_enlargement(generation, index)
        if size in (None, (width, height)):
            data = await self._encoded(generation, index, output_format)
            return image_file(data, output_format, made.header if made else None)
        assert size is not None
        pixels, scale = await self._pixels(generation, index), min(size[0] / width, size[1] / height)
        if scale > 1:
            self._check_enlarged(size)
            made = Enlargement(LANCZOS, round(scale, 4))
            if generation.candidates[index].rank is not None:
                pixels, made = await self._enlarged(generation, index, pixels, scale)
        data = await asyncio.to_thread(_encode_fitted, pixels, size, (width, height), output_format)
        data = await self._sealed_resized(generation, index, data, output_format)
        return image_file(data, output_format, made.header if made else None)

    async def require_unflagged(self, generation: Generation, index: int) -> None:
        """Raise ImageWithheld if safety withholds the image of a candidate."""
        verdict = await self.verdict(generation, index)
        if verdict is not None and verdict.flagged:
            raise ImageWithheld(
                "the safety classifier flagged this image, and the safety mode veto withholds it: use another one"
            )

    async def verdict(self, generation: Generation, index: int) -> SafetyVerdict | None:
        """What counts of an image under `veto`; None in other modes.

        An image that was not classified when it was made is classified now, and so is the last preview of a pruned
        candidate. Raises NotFound if it is gone, and SafetyUnavailable.
        """
        if self._safety.serving(generation.spec.safety) is not Safety.VETO:
            return None
        candidate, key = generation.candidates[index], (generation.id, index)
        known = candidate.safety or self._safety.recall(key)
        if known is not None and (known.flagged or candidate.pruned_at_step is None):
            return known
        return self._safety.recall(key) or await self._safety.remembered(
            key, await self._unclassified(generation, index)
        )

    async def _unclassified(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """The image that would be served: the stored file, else decoded latents."""
        width, height = file_size(generation)
        stored = await self._blobs.get(image_key(generation.id, index, generation.output_format))
        if stored is not None:
            return await asyncio.to_thread(imaging.decode_upload, stored, width * height, None)
        return await self._decoded(generation, index)

    async def _sealed_resized(self, generation: Generation, index: int, data: bytes, output_format: str) -> bytes:
        """The resized file, whose manifest names the file of full size as its parent."""
        if generation.provenance is not Provenance.C2PA:
            return data
        whole = await self._encoded(generation, index, output_format)
        parent = Parent(whole, imaging.MEDIA_TYPES[output_format], f"{generation.id}-{index}.{output_format}")
        return await self._sealer.seal(generation, index, data, output_format, parent, RESIZED)

    def _check_enlarged(self, size: tuple[int, int]) -> None:
        longest = self._limits.output_side
        if max(size) > longest:
            raise InvalidRequest(
                f"size enlarges the image beyond the limit: request at most {longest}x{longest}", pointer="#/size"
            )

    async def _enlarged(
        self, generation: Generation, index: int, pixels: NDArray[np.uint8], scale: float
    ) -> tuple[NDArray[np.uint8], Enlargement]:
        """The pixels after the upscaler; its result is stored and made once."""
        info, passes = self._upscaler.info, self._upscaler.passes((pixels.shape[1], pixels.shape[0]), scale)
        prompt, seed = generation.spec.sampling_prompt(index), generation.candidates[index].seed
        if info is None or passes == 0:
            return await self._upscaler.upscale(pixels, scale, prompt, seed)
        made = Enlargement(info.id, info.factor**passes)
        size = pixels.shape[1] * info.factor**passes, pixels.shape[0] * info.factor**passes
        key = upscaled_key(generation.id, index, info.revision, size)
        lock = self._upscaling.setdefault(key, asyncio.Lock())
        async with lock:
            stored = await self._blobs.get(key)
            if stored is not None:
                return await asyncio.to_thread(imaging.decode_upload, stored, size[0] * size[1], None), made
            enlarged, made = await self._upscaler.upscale(pixels, scale, prompt, seed)
            if made.upscaler != LANCZOS:
                await self._store(generation, key, await asyncio.to_thread(imaging.encode, enlarged, "png"))
        return enlarged, made

    async def _encoded(self, generation: Generation, index: int, output_format: str) -> bytes:
        key = image_key(generation.id, index, output_format)
        stored = await self._blobs.get(key)
        if stored is not None:
            return stored
        candidate = generation.candidates[index]
        pixels = await self._pixels(generation, index)
        made = file_enlargement(generation, index)
        metadata = file_metadata(generation, candidate, made.upscaler if made else None)
        data = await asyncio.to_thread(imaging.encode, pixels, output_format, metadata)
        parent = await parent_file(generation, self._blobs)
        data = await self._sealer.seal(generation, index, data, output_format, parent)
        await self._store(generation, key, data)
        return data

    async def _store(self, generation: Generation, key: str, data: bytes) -> None:
        """Store a file, if the store is available.

        Raises NotFound if the generation was deleted.
        """
        with suppress(StoreUnavailable):  # the answer does not depend on caching
            await self._blobs.put(key, data)
        if not await self._records.existing_ids([generation.id]):
            await self._blobs.delete_prefix(blob_prefix(generation.id))
            raise NotFound("the generation was deleted: generate again")

    async def _pixels(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), from a lossless stored file or the stored latents."""
        candidate: Candidate = generation.candidates[index]
        if candidate.rank is not None and generation.output_format in LOSSLESS_FORMATS:
            stored = await self._blobs.get(image_key(generation.id, index, generation.output_format))
            if stored is not None:
                width, height = file_size(generation)
                return await asyncio.to_thread(imaging.decode_upload, stored, width * height, None)
        enlarged = await self._as_returned(generation, index, await self._decoded(generation, index))
        return await asyncio.to_thread(resized, enlarged, generation)

    async def sampled(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """Candidate `index` in the sampled size, uint8 (H, W, 3).

        The generation has succeeded. It is the stored image if that is lossless and has this size. Raises NotFound
        and ImageWithheld.
        """
        await self.require_unflagged(generation, index)
        if generation.output_size is None:
            return await self._pixels(generation, index)
        return await self._decoded(generation, index)

    async def _decoded(self, generation: Generation, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) from the stored latents, in the sampled size."""
        if not made_by(self._engine.generator, generation):
            raise NotFound(f"this image was not stored, and {missing_weights(generation)}: serve them to decode it")
        field = await self._blobs.get(arrays_key(generation.id))
        if field is None:
            raise NotFound("the generation's files are gone: generate again")
        latents = await asyncio.to_thread(_load_latents, field)
        decoded: NDArray[np.uint8] = (await self._engine.decode(latents[index : index + 1]))[0]
        inputs = await load_inputs(self._blobs, generation.spec)
        if inputs is not None and inputs.inpainting is not None:
            decoded = await asyncio.to_thread(inputs.inpainting.paste, decoded)
        return decoded

    async def _as_returned(self, generation: Generation, index: int, decoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels enlarged as the candidate's file was.

        Raises NotFound and EngineFailed if they cannot be.
        """
        told = file_enlargement(generation, index)
        if told is None or told.upscaler == LANCZOS:
            return decoded
        info = self._upscaler.info
        if info is None or info.id != told.upscaler:
            raise NotFound(f"this format was not stored; making it needs the upscaler {told.upscaler!r}")
        enlarged, made = await self._enlarged(generation, index, decoded, file_scale(generation))
        if made.upscaler == LANCZOS:
            raise EngineFailed(f"{made.reason}: request the image as {generation.output_format}")
        return enlarged


def _load_latents(field: bytes) -> NDArray[np.float16]:
    with np.load(io.BytesIO(field), allow_pickle=False) as arrays:
        return np.asarray(arrays["latents"])


def _encode_fitted(
    pixels: NDArray[np.uint8], size: tuple[int, int], shape: tuple[int, int], output_format: str
) -> bytes:
    return imaging.encode(imaging.fit(pixels, size, shape), output_format, None)
