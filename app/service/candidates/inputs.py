"""Stored images that steer the sampling of a generation: source, mask, controls.

They are written before the record that refers to them, so that any replica can continue the generation and decode its
images again.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np

from app.domain import GenerationSpec
from app.engine.latent_codec import decode_init_latents
from app.errors import NotFound
from app.service.candidates.keys import inputs_key
from app.stores.protocols import BlobStore
from models.protocols.image_inputs import Control, ImageInputs, Inpainting


async def save_inputs(blobs: BlobStore, spec: GenerationSpec, inputs: ImageInputs) -> None:
    """Store the images of a generation. Raises StoreUnavailable."""
    await blobs.put(inputs_key(spec.id), await asyncio.to_thread(_encode, inputs))


async def load_inputs(blobs: BlobStore, spec: GenerationSpec) -> ImageInputs | None:
    """The images of a generation; None if it has none.

    Raises NotFound if the file is gone, StoreUnavailable.
    """
    if not spec.has_inputs:
        return None
    file = await blobs.get(inputs_key(spec.id))
    if file is None:
        raise NotFound("the generation's control images or its mask are gone: send them again")
    return await asyncio.to_thread(_decode, file, spec)


async def copy_inputs(blobs: BlobStore, spec: GenerationSpec, target_id: str) -> None:
    """Copy the images of a generation, if it has any, to another one.

    Raises as `load_inputs`.
    """
    if spec.has_inputs:
        file = await blobs.get(inputs_key(spec.id))
        if file is None:
            raise NotFound("the generation's control images or its mask are gone: send them again")
        await blobs.put(inputs_key(target_id), file)


def _encode(inputs: ImageInputs) -> bytes:
    arrays: dict[str, Any] = {_control(index): each.image for index, each in enumerate(inputs.controls)}
    if inputs.inpainting is not None:
        arrays |= {"source": inputs.inpainting.source, "mask": inputs.inpainting.mask}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _decode(file: bytes, spec: GenerationSpec) -> ImageInputs:
    with np.load(io.BytesIO(file), allow_pickle=False) as arrays:
        used = enumerate(spec.controls)
        controls = tuple(Control(each.kind, arrays[_control(index)], each.weight) for index, each in used)
        if not spec.masked or spec.start is None:
            return ImageInputs(controls=controls)
        source = Inpainting(arrays["source"], decode_init_latents(spec.start), arrays["mask"])
        return ImageInputs(source, controls)


def _control(index: int) -> str:
    """Name of a control image in the file."""
    return f"control_{index}"
