"""POST /v1/images/edits and /v1/images/variations: image to image by form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from app import imaging
from app.api import openapi
from app.api.compat import openai
from app.api.compat.openai_types import MAX_IMAGES, EditForm, VariationForm
from app.api.dependencies import (
    IdempotencyKeyHeader,
    Services,
    ServicesDep,
    for_generator,
    media_type,
    unless_gone,
)
from app.api.forms import FORM_MEDIA_TYPE, checked, form
from app.api.hosts import route_path
from app.api.ranking_inputs import DEFAULT_STRENGTH, MASKED_STRENGTH
from app.api.upload_limits import Pixels, Sent
from app.domain import Notice
from app.errors import InvalidRequest, NoInpainting, UnsupportedMedia
from app.imaging import Upload
from app.service import GenerationParams, RedrawMask, UnresolvedReference

router = APIRouter(prefix="/v1/images", tags=["openai"])

EDITED = openai.EventNames("image_edit.partial_image", "image_edit.completed")
OBJECTS = ("ranking", "webhook", "svg", "loras", "steering", "variants")
SCALARS = (
    *("n", "stream", "partial_images", "output_compression", "frame_count", "frame_duration_ms", "strength"),
    *("n_candidates", "max_candidates", "steps", "guidance_scale", "seed", "pruning", "deterministic"),
)
"""Form fields that are not text."""

LIKENESS = 10.0
"""Weight of the image in the ranking of its variations; the prompt has weight 1."""

REFERENCE = 0.5
"""Weight of each image of an edit after the first."""

TRANSPARENT = "make the area to redraw fully transparent"
"""How a mask of OpenAI's API marks an area."""

FormT = TypeVar("FormT", bound=VariationForm)


@router.post(
    "/edits",
    summary="Edit images (OpenAI API)",
    response_model=None,
    openapi_extra=openapi.request_body(
        (FORM_MEDIA_TYPE, EditForm, {**openapi.EXAMPLE_PROMPT, "image": ["one.png"], "n": 1})
    ),
    responses=openai.response_docs(EDITED),
)
async def edit(request: Request, services: ServicesDep, idempotency_key: IdempotencyKeyHeader = None) -> Response:
    """Image to image: the first `image` is the initial image.

    Only the fully transparent area of `mask` is redrawn. Further images are references of the ranking. Without `size`,
    the ratio is that of the first image. `markup` is refused with `no_inpainting`.
    """
    body, images, mask = await _read(request, EditForm)
    if body.markup is not None:
        raise NoInpainting("the loaded model cannot read a sketch on the image: send `mask`", pointer="#/markup")
    services = await for_generator(services, body.model)
    key = openai.request_key(request, services, idempotency_key, route_path(request.scope), body, [*images, *mask])
    make = partial(_params, request, services, body, images, REFERENCE, mask)
    return await openai.respond(request, services, body, make, key, EDITED)


@router.post(
    "/variations",
    summary="Vary an image (OpenAI API)",
    response_model=None,
    openapi_extra=openapi.request_body((FORM_MEDIA_TYPE, VariationForm, {"image": ["one.png"], "n": 2})),
    responses=openai.response_docs(openai.GENERATED),
)
async def variation(request: Request, services: ServicesDep, idempotency_key: IdempotencyKeyHeader = None) -> Response:
    """Image to image without a prompt.

    Candidates are ranked by similarity to the image."""
    body, images, _ = await _read(request, VariationForm)
    services = await for_generator(services, body.model)
    key = openai.request_key(request, services, idempotency_key, route_path(request.scope), body, images)
    make = partial(_params, request, services, body, images, LIKENESS)
    return await openai.respond(request, services, body, make, key, openai.GENERATED)


async def _read(request: Request, model: type[FormT]) -> tuple[FormT, list[Upload], list[Upload]]:
    """The fields, the images, and the mask if there is one."""
    if media_type(request) != FORM_MEDIA_TYPE:
        raise UnsupportedMedia(f"set `Content-Type` to {FORM_MEDIA_TYPE} and send a file in the field `image`")
    files = [name for name in ("image", "mask", "markup") if name in model.model_fields]
    async with form(request, files, MAX_IMAGES + len(files)) as sent:
        body = checked(model, sent.fields(objects=OBJECTS, scalars=SCALARS))
        masks = await sent.uploads("mask") if "mask" in files else []
        return body, await sent.uploads("image"), [replace(mask, alpha=True) for mask in masks]


async def _params(
    request: Request,
    services: Services,
    body: VariationForm,
    images: Sequence[Upload],
    weight: float,
    mask: Sequence[Upload] = (),
) -> GenerationParams:
    """Service parameters with the first image as the initial image.

    `mask` holds its mask, if there is one. `weight` is the weight of the reference images in the ranking.
    """
    unresolved = await openai.params(request, services, body)
    sent = [Sent(each, "#/mask") for each in mask]
    sent += [Sent(image, f"#/image/{index}" if index else "#/image") for index, image in enumerate(images)]
    room = services.generations.limits.references - len(unresolved.ranking.references)

    async def read() -> GenerationParams:
        async with services.uploads.read(sent) as pixels:
            area = await _transparent(pixels[0]) if mask else None
            decoded = pixels[len(mask) :]
            usual = DEFAULT_STRENGTH if area is None else MASKED_STRENGTH
            strength = usual if body.strength is None else body.strength
            initial = await services.img2img.from_upload(
                _in_ratio(unresolved, decoded[0]), decoded[0], strength, mask=area
            )
            reference_images = decoded[1:] if isinstance(body, EditForm) else decoded
            if len(reference_images) > room:
                raise InvalidRequest(
                    f"`image` has more than {room} images after the first: send fewer", pointer="#/image"
                )
            resolved = await services.references(
                [UnresolvedReference(weight, one) for one in reference_images], "#/image", initial.ranking
            )
            references = (*initial.ranking.references, *resolved)
            notices = (
                _reference_notices(len(reference_images)) if isinstance(body, EditForm) and reference_images else ()
            )
            ranking = replace(initial.ranking, references=references)
            return replace(initial, ranking=ranking, notices=(*initial.notices, *notices))

    return await unless_gone(request, read())


async def _transparent(image: Pixels) -> RedrawMask:
    return RedrawMask(await asyncio.to_thread(imaging.transparent_area, image), TRANSPARENT)


def _in_ratio(params: GenerationParams, image: Pixels) -> GenerationParams:
    """`params` in the ratio of the image (H, W, 3).

    They do not change if they set a size or the ratio is extreme.
    """
    height, width = image.shape[:2]
    body: Sequence[Any] = (params.width, params.aspect_ratio, params.output_size)
    if any(body) or max(width, height) > 4 * min(width, height):
        return params
    return replace(params, aspect_ratio=(width, height))


def _reference_notices(count: int) -> tuple[Notice, ...]:
    detail = "the first image is the initial image; the others only affect the ranking"
    return (Notice("images_as_references", detail, {"param": "image", "count": count}),)
