"""Inputs of a ranking that need a lookup: references, taste and the initial image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from app.api.dependencies import Services, unless_gone
from app.api.schemas.requests import RankingInput, ReferenceInput, TasteInput
from app.api.upload_limits import Pixels, Sent
from app.domain import Generation, Ranking, Reference, Taste
from app.imaging import Upload
from app.service import GenerationParams, UnresolvedReference, current_owner

DEFAULT_STRENGTH = 0.75
"""Strength of image to image when the request omits it, 0 to 1."""


async def resolve_ranking(request: Request, services: Services, body: RankingInput, base: Ranking) -> Ranking:
    """`base` with the fields of `body`; references and taste are looked up.

    Raises the error of an invalid image, generation or profile, with a pointer to it.
    """
    ranking = body.to_domain(base)
    if "references" in body.model_fields_set:
        references = await _resolve_references(request, services, body.references or (), "#/ranking/references")
        ranking = replace(ranking, references=references)
    if "taste" in body.model_fields_set:
        ranking = replace(ranking, taste=await _resolve_taste(services, body.taste, "#/ranking/taste"))
    return ranking


async def _resolve_taste(services: Services, body: TasteInput | None, base: str) -> Taste | None:
    """The requested profile in its current state."""
    if body is None:
        return None
    return await services.taste.resolve(current_owner(), body.profile, body.weight, f"{base}/profile")


async def _resolve_references(
    request: Request, services: Services, body: Sequence[ReferenceInput], base: str
) -> tuple[Reference, ...]:
    """Resolve references in order; a disconnect of the client cancels reading uploads.

    A request that is reading uploads must not call it. Raises the error of an invalid reference, or ClientDisconnected.
    """
    body = body[: services.generations.limits.references + 1]
    sent = [Sent(Upload(item.image), f"{base}/{i}/image") for i, item in enumerate(body) if item.image is not None]
    if not sent:
        return await _resolve_decoded(services, body, [], base)

    async def read() -> tuple[Reference, ...]:
        async with services.uploads.read(sent) as images:
            return await _resolve_decoded(services, body, images, base)

    return await unless_gone(request, read())


async def _resolve_decoded(
    services: Services, body: Sequence[ReferenceInput], images: Sequence[Pixels], base: str
) -> tuple[Reference, ...]:
    """Resolve references; `images` (H, W, 3) are the decoded uploads, in order."""
    uploads = iter(images)
    references = [
        UnresolvedReference(
            item.weight, next(uploads) if item.image is not None else None, item.generation, item.index or 0
        )
        for item in body
    ]
    return await services.references(references, base)


async def with_init_image(
    request: Request,
    services: Services,
    params: GenerationParams,
    uri: str,
    strength: float,
    source: Generation | None = None,
) -> GenerationParams:
    """`params` with the image of the data URI `uri` as the initial image.

    A disconnect of the client cancels reading it. Raises the errors of `Img2ImgService.from_upload`, the error of an
    invalid image, or ClientDisconnected.
    """

    async def read() -> GenerationParams:
        async with services.uploads.read([Sent(Upload(uri), "#/image")]) as images:
            return await services.img2img.from_upload(params, images[0], strength, source)

    return await unless_gone(request, read())
