"""Image to image: from a candidate that is there already, or from a picture that a caller sends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.domain import Generation, Kinship, Parent
from app.engine import latent_codec
from app.engine.protocols import Engine
from app.errors import NotFound
from app.service.candidates.arrays import Fields
from app.service.candidates.images import made_by
from app.service.types import Draft
from app.service.validation import bound, check_size


class Refiner:
    """Gives drafts their start. Pointers are into a body with `index`, `image` and `strength`."""

    def __init__(self, engine: Engine, fields: Fields) -> None:
        self._engine = engine
        self._fields = fields

    async def candidate(self, draft: Draft, source: Generation, index: int, strength: float) -> Draft:
        """`draft` begun as candidate `index` of `source`, in its size; of a pruned one as its last preview.

        Raises NotFound, NotReady and Invalid.
        """
        bound(strength, 0, 1, "#/strength")
        if not made_by(self._engine.generator, source):
            raise NotFound(f"{source.model!r}, with the weights that made this generation, is not loaded")
        stored = await self._fields.latents(source, index, "#/index")
        parent = Parent(Kinship.REFINE, source.id, index)
        width, height = source.spec.width, source.spec.height
        return replace(draft, start=latent_codec.pack(stored, strength), parent=parent, width=width, height=height)

    async def upload(
        self, draft: Draft, image: NDArray[np.uint8], strength: float, source: Generation | None = None
    ) -> Draft:
        """`draft` begun as a picture (H, W, 3) of any size, cut and scaled to that of the draft, or of `source`.

        Raises Invalid and Loading.
        """
        bound(strength, 0, 1, "#/strength")
        info = self._engine.generator
        if source is not None:
            draft = replace(draft, width=source.spec.width, height=source.spec.height)
        width, height = draft.width or info.width, draft.height or info.height
        check_size(width, height, info)
        pixels = await asyncio.to_thread(imaging.fill, image, (width, height))
        array = (await self._engine.encode_images(pixels[None]))[0]
        parent = Parent(Kinship.REFINE, source.id if source is not None else None)
        return replace(draft, start=latent_codec.pack(array, strength), parent=parent, width=width, height=height)
