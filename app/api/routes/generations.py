"""/v1/generations: one address in four manners, and what is left of a generation. Rules are the service's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response

from app.api import openapi, sse
from app.api.dependencies import (
    GenerationId,
    GenerationServiceDep,
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
)
from app.api.generation_response import PREFIX, RESPONSES, encode_event_log, status_response, submit_and_respond
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import resolve_ranking, with_init_image
from app.api.schemas.requests import SIZE_PATTERN, GenerationRequest, ImageFormat, parse_size
from app.api.schemas.responses import GenerationResponse
from app.domain import EventKind
from app.service import GenerationParams

router = APIRouter(prefix=PREFIX, tags=["generations"], route_class=JsonRoute)

IMAGE_CACHE_CONTROL = "private, max-age=86400, immutable"
"""A candidate's image never changes; it only goes when its generation is forgotten."""

DEFAULT_STRENGTH = 0.75
"""How far candidates may go from an image, if the request does not say."""


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
    prefer: Annotated[str, Header(description="`respond-async` answers 202 at once.")] = "",
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """A plain request waits for the result; its generation is cancelled when the client disconnects.

    When an event stream breaks, the generation goes on for a grace period (30 s by default). `GET .../events` with
    `Last-Event-ID` resumes it, on any replica. With an `Idempotency-Key` a generation goes on without its client.
    """
    key = build_idempotency_key(idempotency_key, router.prefix, body)
    params = partial(_build_params, request, services, body)
    return await submit_and_respond(
        request, services.generations, params, (body.response_format, body.output_format), prefer, key
    )


async def _build_params(request: Request, services: Services, body: GenerationRequest) -> GenerationParams:
    """What was asked for, with all that it names looked up."""
    params = body.to_domain()
    params = replace(params, ranking=await resolve_ranking(request, services, body.ranking, params.ranking))
    if body.image is None:
        return params
    strength = DEFAULT_STRENGTH if body.strength is None else body.strength
    return await with_init_image(request, services, params, body.image, strength)


@router.get("/{generation_id}", summary="A generation as it stands", responses=openapi.error_responses(404, 503))
@router.head("/{generation_id}", include_in_schema=False)
async def read_generation(generation_id: GenerationId, service: GenerationServiceDep) -> GenerationResponse:
    """Any replica knows it; `queue_position` and `eta_seconds` are this one's guess while it is not done."""
    return status_response(service, await service.get(generation_id))


@router.get(
    "/{generation_id}/events",
    summary="A generation's log, as server-sent events",
    response_class=Response,
    responses={
        200: {"content": openapi.event_stream_content(list(EventKind))},
        204: {"description": "`Last-Event-ID` is the closing line; an EventSource does not come back after this."},
        **openapi.error_responses(404, 422, 503),
    },
)
async def stream_events(
    generation_id: GenerationId,
    service: GenerationServiceDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**31, description="Lines up to this one are left out.")] = 0,
) -> Response:
    """From the first line, or the one after `Last-Event-ID`, to the closing one, which holds the generation.

    `image` of a preview is null where the generation was waited for and previews were not asked for.
    """
    if await service.log_is_complete(generation_id, last_event_id):
        return Response(status_code=204)
    log = encode_event_log(service, generation_id, last_event_id, "url")
    return sse.EventStreamResponse(generation_id, log, lifetime_s=service.limits.stream_s)


@router.get(
    "/{generation_id}/images/{index}",
    summary="A candidate's image",
    response_class=Response,
    responses={
        200: {
            "content": openapi.image_content(),
            "headers": openapi.header_docs(ETag="Of these bytes.", Cache_Control=IMAGE_CACHE_CONTROL),
        },
        304: {"description": "The caller has these bytes already."},
        **openapi.error_responses(404, 409, 422, 500, 503),
    },
)
@router.head("/{generation_id}/images/{index}", include_in_schema=False)
async def read_image(
    generation_id: GenerationId,
    index: Annotated[int, Path(ge=0, lt=2**31, description="The candidate's, 0 to N-1.")],
    service: GenerationServiceDep,
    form: Annotated[
        ImageFormat | None, Query(alias="format", description="Default: what the generation asked.")
    ] = None,
    size: Annotated[
        str | None, Query(pattern=SIZE_PATTERN, description="WIDTHxHEIGHT to fit in; never enlarged.")
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Of any of the N; those not returned are made from what was stored when first asked for."""
    generation = await service.get(generation_id)
    box = parse_size(size) if size else None
    file = await service.image(generation_id, index, form or generation.output_format, box)
    headers = {"etag": file.etag, "cache-control": IMAGE_CACHE_CONTROL}
    if _etag_matches(if_none_match, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.delete(
    "/{generation_id}", summary="Cancel and forget", status_code=204, responses=openapi.error_responses(404, 503)
)
async def delete_generation(generation_id: GenerationId, service: GenerationServiceDep) -> None:
    """Stops it if it runs, then deletes its record, its log and its files."""
    await service.delete(generation_id)


def _etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller's `If-None-Match` names this ETag; weak ones count, as RFC 9110 wants it."""
    known_tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return bool(known_tags & {etag, "*"})
