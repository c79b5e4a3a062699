"""Stored images that steer the sampling of a generation: source and mask.

They are written before the record that refers to them, so that any replica can continue the generation and decode its
images again.
"""

from __future__ import annotations

import asyncio
import io

import numpy as np

from app.domain import GenerationSpec
from app.engine.latent_codec import decode_init_latents
from app.errors import NotFound
from app.service.candidates.keys import inputs_key
from app.stores.protocols import BlobStore
from models.image_inputs import ImageInputs, Inpainting


async def save_inputs(blobs: BlobStore, spec: GenerationSpec, inputs: ImageInputs) -> None:
    """Store the images of a generation. Raises StoreUnavailable."""
    await blobs.put(inputs_key(spec.id), await asyncio.to_thread(_encode, inputs))


async def load_inputs(blobs: BlobStore, spec: GenerationSpec) -> ImageInputs | None:
    """The images of a generation; None if it has none.

    Raises NotFound if the file is gone, StoreUnavailable.
    """
    if not spec.masked:
        return None
    file = await blobs.get(inputs_key(spec.id))
    if file is None:
        raise NotFound("the generation's source image and mask are gone: refine again")
    return await asyncio.to_thread(_decode, file, spec)


async def copy_inputs(blobs: BlobStore, spec: GenerationSpec, target_id: str) -> None:
    """Copy the images of a generation, if it has any, to another one.

    Raises as `load_inputs`.
    """
    if spec.masked:
        file = await blobs.get(inputs_key(spec.id))
        if file is None:
            raise NotFound("the generation's source image and mask are gone: refine again")
        await blobs.put(inputs_key(target_id), file)


def _encode(inputs: ImageInputs) -> bytes:
    assert inputs.inpainting is not None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, source=inputs.inpainting.source, mask=inputs.inpainting.mask)
    return buffer.getvalue()


def _decode(file: bytes, spec: GenerationSpec) -> ImageInputs:
    assert spec.start is not None
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        return ImageInputs(Inpainting(arrays["source"], decode_init_latents(spec.start), arrays["mask"]))
