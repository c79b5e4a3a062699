"""Inputs of a ranking that need a lookup: references, taste and the initial image."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request

from app import imaging
from app.api.dependencies import Services, unless_gone
from app.api.schemas.ranking.inputs import RankingInput, ReferenceInput, TasteInput
from app.api.schemas.requests import ControlInput
from app.api.schemas.variants import AutoVariants, Variants
from app.api.upload_limits import Pixels, Sent
from app.domain import ControlUse, Generation, Ranking, Reference, Taste
from app.imaging import Upload
from app.service import GenerationParams, RedrawMask, UnresolvedReference, Wordings, current_owner

DEFAULT_STRENGTH = 0.75
"""Strength of image to image when the request omits it, 0 to 1."""

MASKED_STRENGTH = 1.0
"""Strength inside a mask when the request omits it."""

WHITE = "paint the area to redraw white"
"""How a mask of the native routes marks an area."""


async def resolve_ranking(request: Request, services: Services, body: RankingInput, base: Ranking) -> Ranking:
    """`base` with the fields of `body`; references and taste are looked up.

    Raises the error of an invalid image, generation or profile, with a pointer to it.
    """
    ranking = body.to_domain(base)
    services.ensembles.check_probability(ranking)
    if "scorers" in body.model_fields_set:
        services.ensembles.check(ranking.scorers)
    ranking = services.ensembles.completed(ranking)
    if "references" in body.model_fields_set:
        references = await _resolve_references(
            request, services, body.references or (), "#/ranking/references", ranking
        )
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
    request: Request, services: Services, body: Sequence[ReferenceInput], base: str, ranking: Ranking
) -> tuple[Reference, ...]:
    """Resolve references in order; a disconnect of the client cancels reading uploads.

    A request that is reading uploads must not call it. Raises the error of an invalid reference, or ClientDisconnected.
    """
    body = body[: services.generations.limits.references + 1]
    sent = [Sent(Upload(item.image), f"{base}/{i}/image") for i, item in enumerate(body) if item.image is not None]
    if not sent:
        return await _resolve_decoded(services, body, [], base, ranking)

    async def read() -> tuple[Reference, ...]:
        async with services.uploads.read(sent) as images:
            return await _resolve_decoded(services, body, images, base, ranking)

    return await unless_gone(request, read())


async def _resolve_decoded(
    services: Services, body: Sequence[ReferenceInput], images: Sequence[Pixels], base: str, ranking: Ranking
) -> tuple[Reference, ...]:
    """Resolve references; `images` (H, W, 3) are the decoded uploads, in order."""
    uploads = iter(images)
    references = [
        UnresolvedReference(
            item.weight, next(uploads) if item.image is not None else None, item.generation, item.index or 0
        )
        for item in body
    ]
    return await services.references(references, base, ranking)


async def with_init_image(
    request: Request,
    services: Services,
    params: GenerationParams,
    uri: str,
    strength: float,
    source: Generation | None = None,
    mask: str | None = None,
) -> GenerationParams:
    """`params` with the image of the data URI `uri` as the initial image.

    `mask` is its mask. A disconnect of the client cancels reading them. Raises the errors of
    `Img2ImgService.from_upload`, the error of an invalid image, or ClientDisconnected.
    """
    sent = [Sent(Upload(uri), "#/image"), *_sent_mask(mask)]

    async def read() -> GenerationParams:
        async with services.uploads.read(sent) as images:
            area = await _white(images[1]) if mask is not None else None
            return await services.img2img.from_upload(params, images[0], strength, source, area)

    return await unless_gone(request, read())


async def with_candidate(
    request: Request,
    services: Services,
    params: GenerationParams,
    source: Generation,
    index: int,
    strength: float,
    mask: str | None,
) -> GenerationParams:
    """`params` that start from a candidate, of which `mask` marks the area to redraw.

    Raises the errors of `Img2ImgService.from_candidate`, the error of an invalid mask, or ClientDisconnected.
    """
    if mask is None:
        return await services.img2img.from_candidate(params, source, index, strength)

    async def read() -> GenerationParams:
        async with services.uploads.read(_sent_mask(mask)) as images:
            return await services.img2img.from_candidate(params, source, index, strength, await _white(images[0]))

    return await unless_gone(request, read())


async def with_controls(
    request: Request, services: Services, params: GenerationParams, controls: Sequence[ControlInput]
) -> GenerationParams:
    """`params` with control images.

    Raises the errors of `Img2ImgService.with_controls`, the error of an invalid image, or ClientDisconnected.
    """
    if not controls:
        return params
    uses = [ControlUse(each.kind, each.weight) for each in controls]
    services.img2img.check_controls(uses)
    sent = [Sent(Upload(each.image), f"#/control/{index}/image") for index, each in enumerate(controls)]

    async def read() -> GenerationParams:
        async with services.uploads.read(sent) as images:
            return await services.img2img.with_controls(params, uses, images)

    return await unless_gone(request, read())


async def with_variants(
    services: Services, params: GenerationParams, asked: Variants | None, made: Wordings | None = None
) -> GenerationParams:
    """`params` with the wordings that the server makes, if the request asks for them.

    It may have `made` them already.
    """
    if not isinstance(asked, AutoVariants):
        return params
    wordings, notices = made or await services.variants.make(params.prompt, asked.auto)
    return replace(params, wordings=wordings, notices=(*params.notices, *notices))


def _sent_mask(mask: str | None) -> list[Sent]:
    return [] if mask is None else [Sent(Upload(mask, alpha=True), "#/mask")]


async def _white(image: Pixels) -> RedrawMask:
    return RedrawMask(await asyncio.to_thread(imaging.white_area, image), WHITE)
