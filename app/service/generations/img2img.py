"""Image to image, from a stored candidate or an upload."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Generation, Parent, ParentKind
from app.engine import latent_codec
from app.engine.protocols import Engine
from app.errors import NotFound
from app.service.candidates.arrays import CandidateArrays
from app.service.candidates.images import made_by
from app.service.generations.sizing import settle_size
from app.service.types import GenerationParams, Limits
from app.service.validation import check_range


class Img2ImgService:
    """Adds the initial image to parameters.

    Pointers refer to a body with `index`, `image` and `strength`.
    """

    def __init__(self, engine: Engine, fields: CandidateArrays, limits: Limits) -> None:
        self._engine = engine
        self._fields = fields
        self._limits = limits

    async def from_candidate(
        self, params: GenerationParams, source: Generation, index: int, strength: float
    ) -> GenerationParams:
        """Start from candidate `index` of `source`, in its size.

        A pruned candidate starts from its last preview. Raises NotFound, NotReady and InvalidRequest.
        """
        check_range(strength, 0, 1, "#/strength")
        if not made_by(self._engine.generator, source):
            raise NotFound(
                f"model {source.model!r} with the generation's weights is not loaded: load it or use an image"
            )
        stored = await self._fields.latents(source, index, "#/index")
        parent = Parent(ParentKind.REFINE, source.id, index)
        width, height = source.spec.width, source.spec.height
        return replace(
            params, start=latent_codec.encode_init_latents(stored, strength), parent=parent, width=width, height=height
        )

    async def from_upload(
        self, params: GenerationParams, image: NDArray[np.uint8], strength: float, source: Generation | None = None
    ) -> GenerationParams:
        """Start from an image (H, W, 3) of any size, cropped and scaled.

        The size is that of `params`, which is settled here, or of `source`. Raises InvalidRequest and Loading.
        """
        check_range(strength, 0, 1, "#/strength")
        info = self._engine.generator
        if source is not None:
            params = replace(params, width=source.spec.width, height=source.spec.height)
        params = settle_size(params, info, self._limits)
        size = params.width or info.width, params.height or info.height
        pixels = await asyncio.to_thread(imaging.crop_to_fill, image, size)
        array = (await self._engine.encode_images(pixels[None]))[0]
        parent = Parent(ParentKind.REFINE, source.id if source is not None else None)
        return replace(params, start=latent_codec.encode_init_latents(array, strength), parent=parent)
