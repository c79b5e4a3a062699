"""What a ranking asks for that has to be looked up first: the pictures it refers to, and whose taste joins in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from app.api.dependencies import Services, unless_gone
from app.api.schemas.requests import RankingInput, ReferenceInput, TasteInput
from app.api.uploads import Pixels, Sent
from app.domain import Generation, Ranking, Reference, Taste
from app.imaging import Upload
from app.service import GenerationParams, UnresolvedReference, current_owner


async def resolve_ranking(request: Request, services: Services, body: RankingInput, base: Ranking) -> Ranking:
    """`base` with what was `asked` for; references and the taste profile are looked up.

    Raises what is wrong with a picture, a generation or a profile, with a pointer to it.
    """
    ranking = body.to_domain(base)
    if "references" in body.model_fields_set:
        looked = await _resolve_references(request, services, body.references or (), "#/ranking/references")
        ranking = replace(ranking, references=looked)
    if "taste" in body.model_fields_set:
        ranking = replace(ranking, taste=await _resolve_taste(services, body.taste, "#/ranking/taste"))
    return ranking


async def _resolve_taste(services: Services, body: TasteInput | None, base: str) -> Taste | None:
    """The profile that was asked for, as it is now."""
    if body is None:
        return None
    return await services.taste.resolve(current_owner(), body.profile, body.weight, f"{base}/profile")


async def _resolve_references(
    request: Request, services: Services, body: Sequence[ReferenceInput], base: str
) -> tuple[Reference, ...]:
    """References looked up, in order; uploads among them are read only while the client is there.

    Not to be called by a request that reads uploads already. Raises what is wrong with one, and ClientDisconnected.
    """
    body = body[: services.generations.limits.references + 1]
    sent = [Sent(Upload(one.image), f"{base}/{i}/image") for i, one in enumerate(body) if one.image is not None]
    if not sent:
        return await _looked_up(services, body, [], base)

    async def read() -> tuple[Reference, ...]:
        async with services.uploads.read(sent) as images:
            return await _looked_up(services, body, images, base)

    return await unless_gone(request, read())


async def _looked_up(
    services: Services, body: Sequence[ReferenceInput], images: Sequence[Pixels], base: str
) -> tuple[Reference, ...]:
    """`images` are those of the references that have one."""
    uploads = iter(images)
    looked = [
        UnresolvedReference(
            one.weight, next(uploads) if one.image is not None else None, one.generation, one.index or 0
        )
        for one in body
    ]
    return await services.references(looked, base)


async def with_init_image(
    request: Request,
    services: Services,
    params: GenerationParams,
    uri: str,
    strength: float,
    source: Generation | None = None,
) -> GenerationParams:
    """The draft, with the picture of a data URI as its start, which is read only while the client is there.

    Raises what `Img2ImgService.from_upload` does, what is wrong with the picture, and ClientDisconnected.
    """

    async def read() -> GenerationParams:
        async with services.uploads.read([Sent(Upload(uri), "#/image")]) as images:
            return await services.img2img.from_upload(params, images[0], strength, source)

    return await unless_gone(request, read())
