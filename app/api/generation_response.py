"""Responses of a generation: JSON, event stream, image bytes, or 202."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from app.api import openapi, sse
from app.api.dependencies import require_succeeded, wait_for_result
from app.api.negotiation import EVENTS, IMAGES, JSON, has_preference, negotiate, preferred_wait_s
from app.api.schemas.requests import ImageFormat, ResponseFormat
from app.api.schemas.responses import GenerationResponse
from app.domain import EventKind, Generation
from app.errors import EverythingVetoed, NothingAboveMinScore, Unavailable, error_context
from app.service import (
    GenerationParams,
    GenerationService,
    IdempotencyKey,
    ImageFile,
    ParamsFactory,
    generation_path,
)

PREFER = (
    "`respond-async` returns 202 at once, with `wait=20` the result if it takes at most 20 s. `keep-alive` sends "
    "headers at once and white space before the JSON, with status 200 also for errors."
)

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerationResponse,
        "description": "The result, in the format that `Accept` selects.",
        "content": {**openapi.event_stream_content(list(EventKind)), **openapi.image_content()},
        "headers": openapi.header_docs(
            Location="URL of the generation.",
            X_Frontrunner_Id="Id of the generation; only with an image.",
            X_Frontrunner_Seed="Seed that reproduces this image; only with an image.",
            X_Frontrunner_Score="similarity - negative_weight * penalty + taste; only with an image.",
        ),
    },
    202: {
        "model": GenerationResponse,
        "description": "Queued, for `Prefer: respond-async`.",
        "headers": openapi.header_docs(Location="URL to poll for the result.", Preference_Applied="respond-async"),
    },
}


async def submit_and_respond(
    request: Request,
    service: GenerationService,
    params: ParamsFactory,
    formats: tuple[ResponseFormat, ImageFormat],
    prefer: str,
    key: IdempotencyKey | None,
) -> Response:
    """Submit a generation and respond in the format that the headers select.

    `formats`: how JSON holds the images, and the format of stored files. Raises HTTPException 406,
    NothingAboveMinScore, and the errors of `params` and `wait_for_result`.
    """
    response_format, output_format = formats
    media_types = sorted(IMAGES, key=lambda image_type: image_type != f"image/{output_format}")
    media_type = negotiate(request.headers.get("accept"), [JSON, EVENTS, *media_types])
    if media_type is None:
        raise HTTPException(
            406, f"no media type in `Accept` is available: allow one of {JSON}, {EVENTS}, {', '.join(IMAGES)}"
        )
    if media_type == EVENTS:
        return await _stream_response(service, params, response_format, key)
    if media_type in IMAGES:
        output_format = cast(ImageFormat, media_type.removeprefix("image/"))
        generation = await service.submit(
            partial(_with_output_format, output_format, params), idempotency=key, previews=False
        )
        with error_context(generation.id):
            done = await wait_for_result(request, service, generation.id, keep=key is not None)
            return await _image_response(service, done, output_format)
    if has_preference(prefer, "respond-async"):
        queued = await service.submit(params, idempotency=key, queue_if_full=True)
        wait_s = min(preferred_wait_s(prefer), service.limits.stream_s)
        if wait_s and await _ends_within(service, queued.id, wait_s):
            ended = await service.get(queued.id)
            with error_context(ended.id):
                document = await generation_response(service, require_succeeded(ended), response_format)
            return _json_response(document, headers=_location_headers(ended.id))
        return _accepted_response(service, queued)
    generation = await service.submit(params, idempotency=key, previews=False)
    if has_preference(prefer, sse.KEEP_ALIVE):
        make = partial(_result_document, service, generation.id, response_format)
        return kept_alive_response(request, service, generation.id, make, keep=key is not None)
    with error_context(generation.id):
        done = await wait_for_result(request, service, generation.id, keep=key is not None)
        return _json_response(
            await generation_response(service, done, response_format), headers=_location_headers(done.id)
        )


async def _ends_within(service: GenerationService, generation_id: str, wait_s: float) -> bool:
    """Whether the generation ends within these seconds; returns as soon as it does."""
    try:
        async with asyncio.timeout(wait_s):
            await service.wait(generation_id)
    except (TimeoutError, Unavailable):
        return False
    return True


async def _result_document(service: GenerationService, generation_id: str, response_format: ResponseFormat) -> str:
    done = require_succeeded(await service.wait(generation_id))
    return (await generation_response(service, done, response_format)).model_dump_json()


def kept_alive_response(
    request: Request,
    service: GenerationService,
    generation_id: str,
    make: Callable[[], Awaitable[str]],
    *,
    keep: bool,
) -> Response:
    """JSON that `make` returns, headers at once. A disconnect cancels unless `keep`."""
    on_disconnect = None if keep else partial(service.cancel_on_disconnect, generation_id)
    return sse.KeptAliveResponse(request.scope, generation_id, make, on_disconnect=on_disconnect)


async def _with_output_format(output_format: ImageFormat, params: ParamsFactory) -> GenerationParams:
    return replace(await params(), output_format=output_format)


async def generation_response(
    service: GenerationService, generation: Generation, response_format: ResponseFormat
) -> GenerationResponse:
    """A succeeded generation with image links, or with images in base64."""
    if response_format == "url":
        return GenerationResponse.from_domain(generation)
    return GenerationResponse.from_domain(generation, files=await images_as_base64(service, generation))


async def images_as_base64(service: GenerationService, generation: Generation) -> dict[int, str]:
    """The returned images in base64, by index."""
    indices = [c.index for c in generation.best]
    files = await asyncio.gather(*(service.image(generation.id, i, generation.output_format) for i in indices))
    return {i: base64.b64encode(file.data).decode("ascii") for i, file in zip(indices, files, strict=True)}


async def _stream_response(
    service: GenerationService, params: ParamsFactory, response_format: ResponseFormat, key: IdempotencyKey | None
) -> Response:
    generation = await service.submit(params, idempotency=key, attended=key is None)
    return sse.EventStreamResponse(
        generation.id,
        encode_event_log(service, generation.id, 0, response_format),
        lifetime_s=service.limits.stream_s,
        headers=_location_headers(generation.id),
    )


def loading_stream_response(
    model: str,
    submit: Callable[[], Awaitable[tuple[GenerationService, Generation]]],
    response_format: ResponseFormat,
    lifetime_s: float,
) -> Response:
    """A stream that starts while a model loads for the first time.

    The log follows `loading`. The request is checked after it, so an error is the last event.
    """

    async def events() -> AsyncIterator[bytes]:
        yield sse.encode_event(EventKind.LOADING, {"model": model})
        service, generation = await submit()
        with error_context(generation.id):
            async for event in encode_event_log(service, generation.id, 0, response_format):
                yield event

    return sse.EventStreamResponse(None, events(), lifetime_s=lifetime_s)


def wants_events(request: Request) -> bool:
    """Whether `Accept` prefers an event stream."""
    return negotiate(request.headers.get("accept"), [JSON, EVENTS, *IMAGES]) == EVENTS


async def encode_event_log(
    service: GenerationService, generation_id: str, after: int, response_format: ResponseFormat
) -> AsyncIterator[bytes]:
    """The event log as bytes; its final event holds the generation, as GET returns it."""
    async for event in service.watch(generation_id, after):
        if not event.kind.is_final:
            yield sse.encode_event(event.kind, event.data, event.seq)
            continue
        generation = await service.get(generation_id)
        with_files = event.kind is EventKind.SUCCEEDED and response_format == "b64_json"
        response = await generation_response(service, generation, "b64_json" if with_files else "url")
        yield sse.encode_event(event.kind, response, event.seq)


def require_images(generation: Generation) -> None:
    """Require at least one returned image.

    Raises EverythingVetoed, NothingAboveMinScore.
    """
    ranking = generation.spec.ranking
    if not generation.best and any(c.is_vetoed(ranking) for c in generation.candidates):
        raise EverythingVetoed(
            f"every candidate has a flag among {', '.join(ranking.veto)}: raise `n_candidates`, or omit `ranking.veto`",
            pointer="#/ranking/veto",
        )
    if not generation.best:
        name = "min_score" if ranking.min_score is not None or ranking.min_probability is None else "min_probability"
        raise NothingAboveMinScore(
            f"no candidate reached `{name}`: lower it or raise `n_candidates`", pointer=f"#/ranking/{name}"
        )


async def _image_response(service: GenerationService, generation: Generation, output_format: str) -> Response:
    """The bytes of the best image."""
    require_images(generation)
    best = generation.best[0]
    file: ImageFile = await service.image(generation.id, best.index, output_format)
    score = best.score.score if best.score is not None else math.nan
    image_headers = {
        "x-frontrunner-id": generation.id,
        "x-frontrunner-seed": str(best.seed),
        "x-frontrunner-score": f"{score:.6f}",
    }
    return Response(
        file.data,
        media_type=file.media_type,
        headers={
            **_location_headers(generation.id),
            **image_headers,
            **file_headers(generation.id, best.index, file),
            "etag": file.etag,
            "cache-control": "no-store",
            "vary": "accept",
        },
    )


def file_headers(generation_id: str, index: int, file: ImageFile) -> dict[str, str]:
    """The headers with an image file's name and what enlarged it."""
    suffix = file.media_type.removeprefix("image/")
    enlarged = {"x-frontrunner-upscaler": file.upscaler} if file.upscaler is not None else {}
    return {"content-disposition": f'inline; filename="{generation_id}-{index}.{suffix}"', **enlarged}


def _accepted_response(service: GenerationService, generation: Generation) -> Response:
    body = status_response(service, generation)
    retry_after_s = min(30, max(1, math.ceil(body.eta_seconds or 1)))
    headers = {
        **_location_headers(generation.id),
        "preference-applied": "respond-async",
        "retry-after": str(retry_after_s),
    }
    return _json_response(body, 202, headers)


def status_response(service: GenerationService, generation: Generation) -> GenerationResponse:
    """The current state of a generation, with its queue position until it is final."""
    queue_position = None if generation.status.is_final else service.queue_position(generation)
    return GenerationResponse.from_domain(generation, queue_position=queue_position)


def _json_response(body: GenerationResponse, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type=JSON)


def _location_headers(generation_id: str) -> dict[str, str]:
    return {"location": generation_path(generation_id), "vary": "accept, prefer"}
