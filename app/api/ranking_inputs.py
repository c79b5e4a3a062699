"""What a ranking asks for that has to be looked up first: the pictures it refers to, and whose taste joins in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app import imaging
from app.api.dependencies import Face
from app.api.schemas.requests import RankingIn, ReferenceIn, TasteIn
from app.domain import Generation, Ranking, Reference, Taste
from app.service import AskedReference, Draft, owner


async def furnished(face: Face, asked: RankingIn, ranking: Ranking, base: str = "#/ranking") -> Ranking:
    """`ranking` with the references and the taste that were `asked` for. `base` points at where they are in the body.

    Raises what is wrong with a picture, a generation or a profile, with a pointer to it.
    """
    looked = await references(face, asked.references, f"{base}/references")
    return replace(ranking, references=looked, taste=await taste(face, asked.taste, f"{base}/taste"))


async def taste(face: Face, asked: TasteIn | None, base: str) -> Taste | None:
    """The profile that was asked for, as it is now."""
    if asked is None:
        return None
    return await face.tastes.taste(owner(), asked.profile, asked.weight, f"{base}/profile")


async def references(face: Face, asked: Sequence[ReferenceIn], base: str) -> tuple[Reference, ...]:
    """References looked up, in order. Not to be called inside a turn of the uploads."""
    reading = face.uploads.reading()
    async with face.uploads.turn() if any(one.image is not None for one in asked) else nullcontext():
        looked = [
            AskedReference(
                one.weight,
                await reading(partial(_read, one.image), f"{base}/{place}/image") if one.image is not None else None,
                one.generation,
                one.index or 0,
            )
            for place, one in enumerate(asked[: face.service.limits.references + 1])
        ]
        return await face.references(looked, base)


async def begun(face: Face, draft: Draft, uri: str, strength: float, source: Generation | None = None) -> Draft:
    """The draft, begun as the picture of a data URI. Raises what `Refiner.upload` does, and what is wrong with it."""
    async with face.uploads.turn():
        pixels = await face.uploads.reading()(partial(_read, uri), "#/image")
        return await face.refiner.upload(draft, pixels, strength, source)


def _read(uri: str, max_pixels: int) -> NDArray[np.uint8]:
    return imaging.read_upload(imaging.parse_data_uri(uri), max_pixels)
