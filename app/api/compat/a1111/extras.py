"""POST /sdapi/v1/extra-single-image: enlarge one image that is sent."""

from __future__ import annotations

import asyncio
import base64
import html
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field

from app import imaging
from app.api import openapi
from app.api.compat.a1111.types import Integer, Number
from app.api.dependencies import JsonBody, Services, ServicesDep, unless_gone
from app.api.json_body import JsonRoute
from app.api.schemas.base import Between, ResponseModel
from app.api.upload_limits import Pixels, Sent
from app.errors import InvalidRequest
from app.imaging import Upload
from app.service import LANCZOS

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"], route_class=JsonRoute)

NONE, FILTER = "None", "Lanczos"
"""Names of no enlargement, and of the filter, in web UIs."""

UpscalerName: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: NONE if value is None else value), Field(max_length=300)
]
Part: TypeAlias = Annotated[Number, Between(0, 1)]
_UNUSED = ("gfpgan_visibility", "codeformer_visibility", "codeformer_weight")


class ExtraImageRequest(BaseModel):
    """An image, and how it is enlarged: `upscaler_1` by a factor, or to a size.

    `resize_mode` 0 takes the factor `upscaling_resize`, 1 the size, which is cropped to with `upscaling_crop`.
    `upscaler_2` is blended over the first one. Faces are not restored.
    """

    image: str = Field(description="An image, as a data: URI or bare base64.")
    resize_mode: Literal[0, 1] = 0
    show_extras_results: bool = True
    gfpgan_visibility: Part = 0
    codeformer_visibility: Part = 0
    codeformer_weight: Part = 0
    upscaling_resize: Annotated[Number, Between(1, 8)] = 2
    upscaling_resize_w: Annotated[Integer, Between(1, 99_999)] = 512
    upscaling_resize_h: Annotated[Integer, Between(1, 99_999)] = 512
    upscaling_crop: bool = True
    upscaler_1: UpscalerName = Field(NONE, description="A name of GET /sdapi/v1/upscalers.")
    upscaler_2: UpscalerName = NONE
    extras_upscaler_2_visibility: Part = 0
    upscale_first: bool = False


class ExtraImageResponse(ResponseModel):
    """The PNG in base64, and what was done to it as HTML."""

    html_info: str
    image: str


@router.post(
    "/extra-single-image",
    summary="Enlarge an image (A1111 API)",
    dependencies=[JsonBody],
    responses=openapi.error_responses(400, 413, 415, 422, 500, 503),
)
async def enlarge_image(request: Request, body: ExtraImageRequest, services: ServicesDep) -> ExtraImageResponse:
    """Enlarges by the loaded upscaler or by a filter.

    With the upscaler `None`, the image stays as it is.
    """
    _check_names(services, body)

    async def enlarge() -> ExtraImageResponse:
        async with services.uploads.read([Sent(Upload(body.image), "#/image")]) as images:
            return await _enlarged(services, body, images[0])

    return await unless_gone(request, enlarge())


async def _enlarged(services: Services, body: ExtraImageRequest, image: Pixels) -> ExtraImageResponse:
    height, width = image.shape[:2]
    size, scale = _target(body, width, height)
    notes = list(_without_effect(body))
    if body.upscaler_1 != NONE:
        limits = services.generations.limits
        if max(size) > limits.output_side or size[0] * size[1] > limits.output_pixels:
            raise InvalidRequest(
                f"the result would be {size[0]}x{size[1]}: use a side of at most {limits.output_side} and at most "
                f"{limits.output_pixels} pixels",
                pointer="#/upscaling_resize" if body.resize_mode == 0 else "#/upscaling_resize_w",
            )
        first, told = await _by(services, body.upscaler_1, image, size, scale)
        notes = [f"Postprocess upscale by: {scale:g}, Postprocess upscaler: {told}", *notes]
        if body.upscaler_2 != NONE and body.extras_upscaler_2_visibility > 0:
            second, told = await _by(services, body.upscaler_2, image, size, scale)
            first = await asyncio.to_thread(_blended, first, second, body.extras_upscaler_2_visibility)
            notes.insert(1, f"Postprocess upscaler 2: {told}")
        image = first
    file = await asyncio.to_thread(imaging.encode, image, "png")
    text = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return ExtraImageResponse(html_info=text, image=base64.b64encode(file).decode())


async def _by(
    services: Services, name: str, image: Pixels, size: tuple[int, int], scale: float
) -> tuple[NDArray[np.uint8], str]:
    """The image (H, W, 3) in this size, and what enlarged it."""
    if name == FILTER or scale <= 1:
        return await asyncio.to_thread(imaging.crop_to_fill, image, size), FILTER
    larger, made = await services.upscaling.upscale(image, scale, "", 0)
    told = name if made.upscaler != LANCZOS else f"{FILTER}; {made.reason or 'the image is not enlarged'}"
    return await asyncio.to_thread(imaging.crop_to_fill, larger, size), told


def _target(body: ExtraImageRequest, width: int, height: int) -> tuple[tuple[int, int], float]:
    """Width and height of the result, and the factor of enlargement."""
    if body.resize_mode == 0:
        scale = body.upscaling_resize
        return (max(1, round(width * scale)), max(1, round(height * scale))), scale
    wanted = body.upscaling_resize_w, body.upscaling_resize_h
    scale = max(wanted[0] / width, wanted[1] / height)
    return (wanted if body.upscaling_crop else (max(1, round(width * scale)), max(1, round(height * scale)))), scale


def _check_names(services: Services, body: ExtraImageRequest) -> None:
    loaded = services.generations.upscaler()
    names = [NONE, FILTER, *([loaded.id] if loaded is not None else [])]
    for field in ("upscaler_1", "upscaler_2"):
        if getattr(body, field) not in names:
            raise InvalidRequest(
                f"no such upscaler: use {' or '.join(map(repr, names))}, the names of GET /sdapi/v1/upscalers",
                pointer=f"#/{field}",
            )


def _without_effect(body: ExtraImageRequest) -> Iterator[str]:
    for name in _UNUSED:
        if getattr(body, name) > 0:
            yield f"{name} has no effect: faces are not restored"


def _blended(first: NDArray[np.uint8], second: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    mixed = first * np.float32(1 - share) + second * np.float32(share)
    return np.asarray(np.rint(mixed), np.uint8)
