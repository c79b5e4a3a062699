"""POST /sdapi/v1/txt2img and img2img: the best candidates in a web UI's shape."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from PIL import Image

from app import __version__, imaging
from app.api import openapi
from app.api.compat.a1111 import params
from app.api.compat.a1111.controlnet import without_images
from app.api.compat.a1111.jobs import Job, get_jobs
from app.api.compat.a1111.samplers import web_name
from app.api.compat.a1111.types import (
    ImageToImageRequest,
    ProcessingRequest,
    TextToImageRequest,
    WebUIImagesResponse,
)
from app.api.dependencies import (
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
    require_succeeded,
    wait_for_end,
)
from app.api.generation_response import images_as_base64, require_images
from app.api.json_body import JsonRoute
from app.api.schemas.responses import warning_outputs
from app.domain import Candidate, Generation, Notice, Status
from app.errors import error_context
from app.service import (
    GenerationService,
    IdempotencyKey,
    ParamsFactory,
    current_owner,
    file_metadata,
    file_size,
    generation_path,
    image_metadata,
)

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"], route_class=JsonRoute)

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": WebUIImagesResponse},
    **openapi.error_responses(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
}


@router.post(
    "/txt2img",
    summary="Generate images (A1111 API)",
    dependencies=[JsonBody],
    response_model=None,
    responses=_RESPONSES,
)
async def text_to_image(
    request: Request,
    body: Annotated[TextToImageRequest, Body(openapi_examples=cast(Any, openapi.WEB_UI_REQUESTS))],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """`batch_size * n_iter` images are the best of `frontrunner_candidates`.

    Omitted members have the defaults of the model. A size that the model does not support is sampled near it and
    resized. `warnings` in `info` name what had no effect.
    """
    services = await params.of_checkpoint(services, body)
    make = partial(params.text_to_image, request, services, body)
    return await _respond(request, services, body, make, "txt2img", idempotency_key)


@router.post(
    "/img2img",
    summary="Generate images from an image (A1111 API)",
    dependencies=[JsonBody],
    response_model=None,
    responses=_RESPONSES,
)
async def image_to_image(
    request: Request, body: ImageToImageRequest, services: ServicesDep, idempotency_key: IdempotencyKeyHeader = None
) -> Response:
    """Image to image from the first of `init_images`, cropped to fill the size."""
    services = await params.of_checkpoint(services, body)
    make = partial(params.image_to_image, request, services, body)
    return await _respond(request, services, body, make, "img2img", idempotency_key)


async def _respond(
    request: Request,
    services: Services,
    body: ProcessingRequest,
    make: ParamsFactory,
    kind: Literal["txt2img", "img2img"],
    idempotency_key: str | None,
) -> Response:
    service = services.generations
    key: IdempotencyKey | None = build_idempotency_key(idempotency_key, request.url.path, body)
    with params.renamed_pointers():
        generation = await service.submit(make, idempotency=key)
    job = Job(generation.id, current_owner(), kind)
    with error_context(generation.id), get_jobs(request).running(job):
        done = await wait_for_end(request, service, generation.id, keep=key is not None)
        if done.status is Status.CANCELLED:  # by any replica
            return await _interrupted(service, body, done, job)
        require_succeeded(done)
        require_images(done)
        files = await images_as_base64(service, done) if body.send_images is not False else {}
    return _response(body, done, done.best, [files[c.index] for c in done.best if files], kind)


async def _interrupted(service: GenerationService, body: ProcessingRequest, done: Generation, job: Job) -> Response:
    """The best preview so far in the size of the result; no image if there is none."""
    for event in await service.known_events(done.id, job.seq):
        job.read(event)
    detail = f"the request was interrupted after step {job.step} of {job.steps or done.spec.steps_made}"
    done = replace(done, warnings=(*done.warnings, Notice("interrupted", detail)))
    if job.preview is None:
        return _response(body, done, [], [], job.kind)
    index = int(job.preview["index"])
    candidate = Candidate(index, done.spec.candidate_seed(index))
    image = await asyncio.to_thread(_enlarged, str(job.preview["image"]), done, candidate)
    return _response(body, done, [candidate], [image], job.kind)


def _enlarged(preview: str, done: Generation, candidate: Candidate) -> str:
    """A preview of the log as a file of the generation's size, in base64."""
    pixels = np.asarray(Image.open(io.BytesIO(imaging.parse_image_text(preview))).convert("RGB"))
    data = imaging.encode(
        imaging.crop_to_fill(pixels, file_size(done)), done.output_format, file_metadata(done, candidate)
    )
    return base64.b64encode(data).decode("ascii")


def _response(
    body: ProcessingRequest,
    done: Generation,
    best: Sequence[Candidate],
    images: Sequence[str],
    kind: str,
) -> Response:
    spec = done.spec
    width, height = file_size(done)
    used = {
        "prompt": body.prompt or "",
        "negative_prompt": body.negative_prompt or "",
        "steps": spec.steps,
        "cfg_scale": spec.guidance_scale,
        "width": body.width or width,
        "height": body.height or height,
        "sampler_name": body.sampler_name or web_name(spec.sampler),
        "frontrunner_candidates": spec.n_candidates,
    }
    if body.alwayson_scripts:
        used["alwayson_scripts"] = without_images(body.alwayson_scripts)
    document = info(done, best, body, kind)
    response = WebUIImagesResponse(images=list(images), parameters=body.echo(**used), info=json.dumps(document))
    return Response(
        response.model_dump_json(), media_type="application/json", headers={"location": generation_path(done.id)}
    )


def info(done: Generation, best: Sequence[Candidate], body: ProcessingRequest, kind: str) -> Mapping[str, Any]:
    """The members that a web UI writes into `info`, then `warnings` and `frontrunner`."""
    spec, n = done.spec, len(best)
    width, height = file_size(done)
    seeds = [candidate.seed for candidate in best]
    warnings = warning_outputs([*done.warnings, *params.unsupported_settings(body)])
    return {
        "prompt": spec.prompt,
        "all_prompts": [spec.sampling_prompt(candidate.index) for candidate in best],
        "negative_prompt": spec.negative_prompt,
        "all_negative_prompts": [spec.negative_prompt] * n,
        "seed": seeds[0] if seeds else spec.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * n,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": web_name(spec.sampler),
        "cfg_scale": spec.guidance_scale,
        "steps": spec.steps,
        "batch_size": body.batch_size or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": done.model,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": spec.start.strength if spec.start else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": [imaging.infotext(image_metadata(done, candidate)) for candidate in best],
        "styles": body.styles or [],
        "job_timestamp": datetime.fromtimestamp(done.created, UTC).strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": f"frontrunner {__version__}",
        "warnings": [warning.model_dump(mode="json") for warning in warnings],
        "frontrunner": {
            "id": done.id,
            "kind": kind,
            "candidates": spec.n_candidates,
            "scores": [candidate.score.score if candidate.score else None for candidate in best],
        },
    }
