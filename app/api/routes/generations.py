"""Routes under /v1/generations: submit, read, follow, fetch images, delete."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, cast

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response

from app.api import openapi, sse
from app.api.dependencies import (
    CandidateIndex,
    GenerationId,
    GenerationServiceDep,
    GeneratorServicesDep,
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
)
from app.api.generation_response import (
    PREFER,
    RESPONSES,
    encode_event_log,
    file_headers,
    loading_stream_response,
    status_response,
    submit_and_respond,
    wants_events,
)
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import DEFAULT_STRENGTH, resolve_ranking, with_controls, with_init_image, with_variants
from app.api.schemas.base import SIZE_PATTERN, Between, Index
from app.api.schemas.requests import GenerationRequest, ImageFormat, parse_size
from app.api.schemas.responses import GenerationResponse
from app.domain import EventKind, Generation
from app.service import GenerationParams, GenerationService, IdempotencyKey, Wordings, image_path

router = APIRouter(prefix="/v1/generations", tags=["generations"], route_class=JsonRoute)

MAX_CACHE_S = 86_400
IMAGE_CACHE_CONTROL = "private, max-age={}, immutable"
"""A candidate's image never changes until its generation is deleted."""


@router.post(
    "",
    summary="Sample candidates and rank them",
    dependencies=[JsonBody],
    response_model=None,
    responses={**RESPONSES, **openapi.error_responses(400, 404, 406, 408, 409, 413, 415, 422, 500, 503, 504)},
)
async def create_generation(
    request: Request,
    body: Annotated[GenerationRequest, Body(openapi_examples=cast(Any, openapi.REQUESTS))],
    services: ServicesDep,
    prefer: Annotated[str, Header(description=PREFER)] = "",
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """A plain request waits for the result; a disconnect cancels the generation.

    When an event stream breaks, the generation continues for a grace period (30 s by default). `GET .../events` with
    `Last-Event-ID` resumes it, on any replica. With an `Idempotency-Key` a generation continues without its client.
    """
    key = build_idempotency_key(idempotency_key, router.prefix, body)
    if wants_events(request) and not services.models.is_known(body.model):
        submit = partial(_submit_when_known, request, services, body, key)
        name = body.model or services.models.ids[0]
        return loading_stream_response(name, submit, body.response_format, services.generations.limits.stream_s)
    services = await services.of_model(body.model)
    params = partial(build_params, request, services, body)
    return await submit_and_respond(
        request, services.generations, params, (body.response_format, body.output_format), prefer, key
    )


async def _submit_when_known(
    request: Request, services: Services, body: GenerationRequest, key: IdempotencyKey | None
) -> tuple[GenerationService, Generation]:
    """Wait for the first load of the model, then submit to it."""
    services = await services.of_model(body.model)
    params = partial(build_params, request, services, body)
    service = services.generations
    return service, await service.submit(params, idempotency=key, attended=key is None)


async def build_params(
    request: Request, services: Services, body: GenerationRequest, wordings: Wordings | None = None
) -> GenerationParams:
    """Service parameters with the ranking and the images resolved.

    `wordings` are those that are already made.
    """
    params = body.to_domain()
    params = replace(params, ranking=await resolve_ranking(request, services, body.ranking, params.ranking))
    params = await with_variants(services, params, body.variants, wordings)
    if body.image is not None:
        strength = DEFAULT_STRENGTH if body.strength is None else body.strength
        params = await with_init_image(request, services, params, body.image, strength)
    return await with_controls(request, services, params, body.control)


@router.get("/{generation_id}", summary="Read a generation", responses=openapi.error_responses(404, 503))
@router.head("/{generation_id}", include_in_schema=False)
async def read_generation(generation_id: GenerationId, service: GenerationServiceDep) -> GenerationResponse:
    """Works on every replica.

    Until the generation ends, `queue_position` and `eta_seconds` are estimates of this replica.
    """
    return status_response(service, await service.get(generation_id))


@router.get(
    "/{generation_id}/events",
    summary="Follow a generation by server-sent events",
    response_class=Response,
    responses={
        200: {"content": openapi.event_stream_content(list(EventKind))},
        204: {"description": "`Last-Event-ID` is the final event; an EventSource stops reconnecting."},
        **openapi.error_responses(404, 422, 503),
    },
)
async def stream_events(
    generation_id: GenerationId,
    service: GenerationServiceDep,
    last_event_id: Annotated[
        Index, Header(description="Number of the last received event; earlier ones are skipped.")
    ] = 0,
) -> Response:
    """All events, or those after `Last-Event-ID`.

    The final event holds the generation. `image` of a preview is null when the request waited for the result without
    asking for previews.
    """
    if await service.log_is_complete(generation_id, last_event_id):
        return Response(status_code=204)
    log = encode_event_log(service, generation_id, last_event_id, "url")
    return sse.EventStreamResponse(generation_id, log, lifetime_s=service.limits.stream_s)


_IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": openapi.image_content(),
        "headers": openapi.header_docs(
            ETag="Identifies these bytes.",
            Cache_Control=IMAGE_CACHE_CONTROL.format(MAX_CACHE_S),
            Content_Disposition="inline, with a file name.",
            Link="The image's link, signed where required, as `canonical`; absent after a signed link.",
            X_Frontrunner_Upscaler="What enlarged the image, and by which factor; absent if it was not enlarged.",
        ),
    },
    304: {"description": "`If-None-Match` names the current bytes."},
    **openapi.error_responses(404, 409, 422, 500, 503),
}
Expires: TypeAlias = Annotated[
    Annotated[int, Between(0, 2**40 - 1)] | None,
    Query(description="When a signed link expires, in seconds since the epoch."),
]
Signature: TypeAlias = Annotated[str | None, Query(max_length=100, description="Signature of a link; replaces a key.")]
_FIT_INTO = Query(pattern=SIZE_PATTERN, description="WIDTHxHEIGHT in pixels to fit into; may enlarge the image.")


@router.get(
    "/{generation_id}/images/{index}.{suffix}",
    summary="Read a candidate's image by file name",
    response_class=Response,
    responses=_IMAGE_RESPONSES,
)
@router.head("/{generation_id}/images/{index}.{suffix}", include_in_schema=False)
async def image_file(
    generation_id: GenerationId,
    index: CandidateIndex,
    suffix: Annotated[Literal["png", "webp", "jpeg", "jpg"], Path(description="The format of the file.")],
    services: GeneratorServicesDep,
    output_format: Annotated[
        ImageFormat | None, Query(alias="format", description="File format. Default: that of the suffix.")
    ] = None,
    size: Annotated[str | None, _FIT_INTO] = None,
    expires: Expires = None,
    signature: Signature = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The same image under a path with a suffix.

    Some clients take the type of a file from its URL.
    """
    named: ImageFormat = "jpeg" if suffix == "jpg" else suffix
    return await read_image(
        generation_id,
        index,
        services,
        output_format or named,
        size=size,
        expires=expires,
        signature=signature,
        if_none_match=if_none_match,
    )


@router.get(
    "/{generation_id}/images/{index}",
    summary="Read a candidate's image",
    response_class=Response,
    responses=_IMAGE_RESPONSES,
)
@router.head("/{generation_id}/images/{index}", include_in_schema=False)
async def read_image(
    generation_id: GenerationId,
    index: CandidateIndex,
    services: GeneratorServicesDep,
    output_format: Annotated[
        ImageFormat | None, Query(alias="format", description="File format. Default: that of the generation.")
    ] = None,
    size: Annotated[str | None, _FIT_INTO] = None,
    expires: Expires = None,
    signature: Signature = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The image of any of the N candidates.

    Images that were not returned are decoded from stored data at the first request. A signed link needs no key. It
    may be extended by `format` and `size`, and caches keep its image no longer than it is valid. A `size` beyond
    the image enlarges returned images with the upscaler, if there is one, and the others with a Lanczos filter.
    """
    service = services.generations
    generation = await service.get(generation_id)
    box, file_format = parse_size(size) if size else None, output_format or generation.output_format
    file = await service.image(generation_id, index, file_format, box)
    max_age_s = MAX_CACHE_S
    if expires is not None and signature is not None:
        max_age_s = min(max_age_s, max(0, services.links.seconds_left(expires)))
    headers = {
        "etag": file.etag,
        "cache-control": IMAGE_CACHE_CONTROL.format(max_age_s),
        **file_headers(generation_id, index, file),
    }
    if signature is None:
        headers["link"] = f'<{image_path(generation_id, index, file_format)}>; rel="canonical"'
    if _etag_matches(if_none_match, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.delete(
    "/{generation_id}",
    summary="Cancel and delete a generation",
    status_code=204,
    responses=openapi.error_responses(404, 503),
)
async def delete_generation(generation_id: GenerationId, service: GenerationServiceDep) -> None:
    """Cancels a running generation, then deletes its record, log and files."""
    await service.delete(generation_id)


def _etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag, by weak comparison (RFC 9110)."""
    known_tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return bool(known_tags & {etag, "*"})
