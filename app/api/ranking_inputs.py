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


async def resolve_ranking(face: Face, asked: RankingIn, base: Ranking) -> Ranking:
    """`base` with what was `asked` for; references and the taste profile are looked up.

    Raises what is wrong with a picture, a generation or a profile, with a pointer to it.
    """
    ranking = asked.to_domain(base)
    if "references" in asked.model_fields_set:
        ranking = replace(ranking, references=await _references(face, asked.references or (), "#/ranking/references"))
    if "taste" in asked.model_fields_set:
        ranking = replace(ranking, taste=await _taste(face, asked.taste, "#/ranking/taste"))
    return ranking


async def _taste(face: Face, asked: TasteIn | None, base: str) -> Taste | None:
    """The profile that was asked for, as it is now."""
    if asked is None:
        return None
    return await face.tastes.taste(owner(), asked.profile, asked.weight, f"{base}/profile")


async def _references(face: Face, asked: Sequence[ReferenceIn], base: str) -> tuple[Reference, ...]:
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


async def with_init_image(
    face: Face, draft: Draft, uri: str, strength: float, source: Generation | None = None
) -> Draft:
    """The draft, with the picture of a data URI as its start. Raises as `Refiner.upload`, and for a bad picture."""
    async with face.uploads.turn():
        pixels = await face.uploads.reading()(partial(_read, uri), "#/image")
        return await face.refiner.upload(draft, pixels, strength, source)


def _read(uri: str, max_pixels: int) -> NDArray[np.uint8]:
    return imaging.read_upload(imaging.parse_data_uri(uri), max_pixels)
