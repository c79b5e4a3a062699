"""What a ranking asks for that has to be looked up first: the pictures it refers to, and whose taste joins in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from app.api.dependencies import Face, unless_gone
from app.api.schemas.requests import RankingIn, ReferenceIn, TasteIn
from app.api.uploads import Pixels, Sent
from app.domain import Generation, Ranking, Reference, Taste
from app.imaging import Upload
from app.service import AskedReference, Draft, owner


async def resolve_ranking(request: Request, face: Face, asked: RankingIn, base: Ranking) -> Ranking:
    """`base` with what was `asked` for; references and the taste profile are looked up.

    Raises what is wrong with a picture, a generation or a profile, with a pointer to it.
    """
    ranking = asked.to_domain(base)
    if "references" in asked.model_fields_set:
        looked = await _references(request, face, asked.references or (), "#/ranking/references")
        ranking = replace(ranking, references=looked)
    if "taste" in asked.model_fields_set:
        ranking = replace(ranking, taste=await _taste(face, asked.taste, "#/ranking/taste"))
    return ranking


async def _taste(face: Face, asked: TasteIn | None, base: str) -> Taste | None:
    """The profile that was asked for, as it is now."""
    if asked is None:
        return None
    return await face.tastes.taste(owner(), asked.profile, asked.weight, f"{base}/profile")


async def _references(request: Request, face: Face, asked: Sequence[ReferenceIn], base: str) -> tuple[Reference, ...]:
    """References looked up, in order; uploads among them are read only while the client is there.

    Not to be called by a request that reads uploads already. Raises what is wrong with one, and ClientGone.
    """
    asked = asked[: face.service.limits.references + 1]
    sent = [Sent(Upload(one.image), f"{base}/{i}/image") for i, one in enumerate(asked) if one.image is not None]
    if not sent:
        return await _looked_up(face, asked, [], base)

    async def read() -> tuple[Reference, ...]:
        async with face.uploads.read(sent) as images:
            return await _looked_up(face, asked, images, base)

    return await unless_gone(request, read())


async def _looked_up(
    face: Face, asked: Sequence[ReferenceIn], images: Sequence[Pixels], base: str
) -> tuple[Reference, ...]:
    """`images` are those of the references that have one."""
    uploads = iter(images)
    looked = [
        AskedReference(one.weight, next(uploads) if one.image is not None else None, one.generation, one.index or 0)
        for one in asked
    ]
    return await face.references(looked, base)


async def with_init_image(
    request: Request, face: Face, draft: Draft, uri: str, strength: float, source: Generation | None = None
) -> Draft:
    """The draft, with the picture of a data URI as its start, which is read only while the client is there.

    Raises what `Refiner.upload` does, what is wrong with the picture, and ClientGone.
    """

    async def read() -> Draft:
        async with face.uploads.read([Sent(Upload(uri), "#/image")]) as images:
            return await face.refiner.upload(draft, images[0], strength, source)

    return await unless_gone(request, read())
