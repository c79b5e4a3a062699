"""Images that steer sampling: initial images, masks and control images."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import ControlUse, Generation, Notice, Parent, ParentKind
from app.engine import latent_codec
from app.engine.protocols import Engine
from app.errors import InvalidRequest, NotFound
from app.service.candidates.arrays import CandidateArrays
from app.service.candidates.images import CandidateImages, made_by, missing_weights
from app.service.candidates.inputs import load_inputs
from app.service.candidates.keys import file_size
from app.service.generations.sizing import settle_size
from app.service.types import GenerationParams, Limits
from app.service.validation import check_range
from app.stores.protocols import BlobStore
from models.protocols.image_inputs import Control, ImageInputs, Inpainting

_WHOLE = Notice("mask_covers_all", "the mask covers the whole image, so all of it is redrawn")


@dataclass(frozen=True, slots=True, eq=False)
class RedrawMask:
    """The area (H, W) of an image that is redrawn: True.

    `rule` describes how a caller marks it.
    """

    area: NDArray[np.bool_]
    rule: str

    def check(self, size: tuple[int, int]) -> None:
        """Raise InvalidRequest unless it has `size` (width, height) and marks an area."""
        own = self.area.shape[::-1]
        if own != size:
            shown = "the mask is {}x{}, but its image is {}x{}: send a mask of the image's size"
            raise InvalidRequest(shown.format(*own, *size), pointer="#/mask")
        if not self.area.any():
            raise InvalidRequest(f"the mask marks nothing to redraw: {self.rule}", pointer="#/mask")


class Img2ImgService:
    """Adds the initial image, its mask and control images to parameters.

    Pointers refer to a body with `index`, `image`, `mask`, `strength` and `control`.
    """

    def __init__(
        self, engine: Engine, fields: CandidateArrays, images: CandidateImages, blobs: BlobStore, limits: Limits
    ) -> None:
        self._engine = engine
        self._fields = fields
        self._images = images
        self._blobs = blobs
        self._limits = limits

    async def from_candidate(
        self,
        params: GenerationParams,
        source: Generation,
        index: int,
        strength: float,
        mask: RedrawMask | None = None,
    ) -> GenerationParams:
        """Start from candidate `index` of `source`, in its size.

        A pruned candidate starts from its last preview. The mask has the size of the candidate's file. Raises NotFound,
        NotReady, InvalidRequest and ImageWithheld.
        """
        check_range(strength, 0, 1, "#/strength")
        if not made_by(self._engine.generator, source):
            raise NotFound(f"{missing_weights(source)}: serve them as previous weights, or send an image")
        stored = await self._fields.latents(source, index, "#/index")
        await self._images.require_unflagged(source, index)
        parent = Parent(ParentKind.REFINE, source.id, index)
        width, height = source.spec.width, source.spec.height
        start = latent_codec.encode_init_latents(stored, strength)
        started = replace(params, start=start, parent=parent, width=width, height=height)
        if mask is None:
            return started
        mask.check(file_size(source))
        area = await asyncio.to_thread(imaging.place_in_uncropped, mask.area, (width, height))
        return _masked(started, await self._images.sampled(source, index), stored, area)

    async def from_upload(
        self,
        params: GenerationParams,
        image: NDArray[np.uint8],
        strength: float,
        source: Generation | None = None,
        mask: RedrawMask | None = None,
    ) -> GenerationParams:
        """Start from an image (H, W, 3) of any size, cropped and scaled.

        So is its mask (H, W). The size is that of `params`, which is settled here, or of `source`. Raises
        InvalidRequest and Loading.
        """
        check_range(strength, 0, 1, "#/strength")
        if mask is not None:
            mask.check((image.shape[1], image.shape[0]))
        info = self._engine.generator
        if source is not None:
            params = replace(params, width=source.spec.width, height=source.spec.height)
        params = settle_size(params, info, self._limits)
        size = params.width or info.width, params.height or info.height
        pixels = await asyncio.to_thread(imaging.crop_to_fill, image, size)
        array = (await self._engine.encode_images(pixels[None]))[0]
        parent = Parent(ParentKind.REFINE, source.id if source is not None else None)
        started = replace(params, start=latent_codec.encode_init_latents(array, strength), parent=parent)
        if mask is None:
            return started
        area = await asyncio.to_thread(imaging.crop_mask_to_fill, mask.area, size)
        if not area.any():
            raise InvalidRequest(
                f"the marked area is outside the part of the image that {size[0]}x{size[1]} keeps: send another size",
                pointer="#/mask",
            )
        return _masked(started, pixels, array, area)

    def check_controls(self, uses: Sequence[ControlUse]) -> None:
        """Raise InvalidRequest for kinds that the loaded model does not have."""
        known = self._engine.generator.controls
        for index, use in enumerate(uses):
            if use.kind in known:
                continue
            choice = f"use {', '.join(known)}" if known else "it has none; send the sketch as `image`"
            raise InvalidRequest(
                f"the loaded model takes no control of kind {use.kind!r}: {choice}", pointer=f"#/control/{index}/kind"
            )

    async def with_controls(
        self, params: GenerationParams, uses: Sequence[ControlUse], images: Sequence[NDArray[np.uint8]]
    ) -> GenerationParams:
        """Add control images (H, W, 3) of any size, cropped and scaled.

        The size is that of `params`, which is settled here. Raises InvalidRequest and Loading.
        """
        self.check_controls(uses)
        info = self._engine.generator
        params = settle_size(params, info, self._limits)
        size = params.width or info.width, params.height or info.height
        fitted = [await asyncio.to_thread(imaging.crop_to_fill, image, size) for image in images]
        controls = tuple(Control(use.kind, image, use.weight) for use, image in zip(uses, fitted, strict=True))
        return replace(params, inputs=replace(params.inputs or ImageInputs(), controls=controls))

    async def inherit_controls(self, params: GenerationParams, source: Generation) -> GenerationParams:
        """Add the control images of `source`, if it has any.

        Raises InvalidRequest if the loaded model has no such control, and NotFound if they are gone.
        """
        if not source.spec.controls:
            return params
        self.check_controls(source.spec.controls)
        inputs = await load_inputs(self._blobs, source.spec)
        controls = inputs.controls if inputs is not None else ()
        return replace(params, inputs=replace(params.inputs or ImageInputs(), controls=controls))


def _masked(
    params: GenerationParams, source: NDArray[np.uint8], latents: NDArray[np.float16], area: NDArray[np.bool_]
) -> GenerationParams:
    if area.all():
        return replace(params, notices=(*params.notices, _WHOLE))
    return replace(params, inputs=ImageInputs(Inpainting(source, latents, area)))
