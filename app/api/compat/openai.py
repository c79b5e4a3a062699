"""POST /v1/images/generations: the OpenAI Images API over the same generations.

OpenAI clients work unchanged. Frontrunner's fields are accepted too (`extra_body` in the openai package), and responses
contain further members. An OpenAI field without effect here adds an entry to `warnings`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Request, Response

from app.api import openapi, sse
from app.api.compat.openai_types import ImageItem, ImagesRequest, ImagesResponse, Usage
from app.api.dependencies import (
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
    build_retry_key,
    for_generator,
    loaded_models,
    require_succeeded,
    wait_for_result,
)
from app.api.generation_response import generation_response, kept_alive_response, require_images
from app.api.hosts import Hosts
from app.api.json_body import JsonRoute
from app.api.negotiation import has_preference
from app.api.ranking_inputs import resolve_ranking, with_variants
from app.api.schemas.responses import ImageOutput
from app.domain import Event, EventKind, Generation
from app.errors import error_context
from app.imaging import Upload
from app.service import GenerationParams, GenerationService, IdempotencyKey, ParamsFactory, file_size

router = APIRouter(prefix="/v1/images", tags=["openai"], route_class=JsonRoute)


@dataclass(frozen=True, slots=True)
class EventNames:
    """Names of the events of a stream."""

    partial: str
    completed: str


GENERATED = EventNames("image_generation.partial_image", "image_generation.completed")


def response_docs(names: EventNames) -> dict[int | str, dict[str, Any]]:
    """The documented responses of a route."""
    return {
        200: {
            "model": ImagesResponse,
            "description": "The images, or with `stream` their events.",
            "content": openapi.event_stream_content([names.partial, names.completed]),
        },
        **openapi.error_responses(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
    }


@router.post(
    "/generations",
    summary="Generate images (OpenAI API)",
    dependencies=[JsonBody],
    response_model=None,
    responses=response_docs(GENERATED),
)
async def create_images(
    request: Request,
    body: Annotated[ImagesRequest, Body(openapi_examples=cast(Any, openapi.OPENAI_REQUESTS))],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Works with the unchanged openai package.

    Fields that OpenAI's API lacks go into its `extra_body`.
    """
    services = await for_generator(services, body.model)
    key = request_key(request, services, idempotency_key, router.prefix, body)
    return await respond(request, services, body, partial(params, request, services, body), key, GENERATED)


def request_key(
    request: Request,
    services: Services,
    key: str | None,
    path: str,
    body: ImagesRequest,
    files: Sequence[Upload] = (),
) -> IdempotencyKey | None:
    """The client's idempotency key, or the one that its retries share.

    A stream has none of its own: it cannot be continued.
    """
    if key is not None or body.stream:
        return build_idempotency_key(key, path, body, files)
    return build_retry_key(request, services.generations.limits.retry_window_s, path, body, files)


async def params(request: Request, services: Services, body: ImagesRequest) -> GenerationParams:
    """Service parameters, with the alias of the model and the ranking resolved."""
    unresolved = body.to_domain()
    model, notices = services.aliases.generator(body.model, loaded_models(services))
    ranking = await resolve_ranking(request, services, body.ranking, unresolved.ranking)
    resolved = replace(unresolved, model=model, ranking=ranking, notices=notices)
    return await with_variants(services, resolved, body.variants)


async def respond(
    request: Request,
    services: Services,
    body: ImagesRequest,
    make: ParamsFactory,
    key: IdempotencyKey | None,
    names: EventNames,
) -> Response:
    """Submit a generation and respond with one document, or a stream."""
    service = services.generations
    attended = key is not None and key.window_s is not None
    generation = await service.submit(make, idempotency=key, previews=bool(body.stream), attended=attended)
    if body.stream:
        on_disconnect = partial(service.cancel_on_disconnect, generation.id) if key is None else None
        return sse.EventStreamResponse(
            generation.id,
            _events(service, generation, body, names),
            lifetime_s=service.limits.stream_s,
            on_disconnect=on_disconnect,
        )
    if has_preference(request.headers.get("prefer", ""), sse.KEEP_ALIVE):
        make_document = partial(_awaited_document, request, service, generation.id, body, attended=attended)
        return kept_alive_response(request, service, generation.id, make_document, keep=key is not None)
    with error_context(generation.id):
        done = await wait_for_result(request, service, generation.id, keep=key is not None, attended=attended)
        return Response(await _document(request, service, done, body), media_type="application/json")


async def _awaited_document(
    request: Request, service: GenerationService, generation_id: str, body: ImagesRequest, *, attended: bool
) -> str:
    done = require_succeeded(await service.wait(generation_id, attended=attended))
    return await _document(request, service, done, body)


async def _document(request: Request, service: GenerationService, done: Generation, body: ImagesRequest) -> str:
    """OpenAI's response for a generation that succeeded. Raises as `require_images`."""
    response = await generation_response(service, done, body.delivery)
    require_images(done)  # clients expect at least one image
    hosts: Hosts = request.app.state.hosts
    origin = hosts.origin(request.scope)
    images = ImagesResponse(
        created=response.created,
        data=[_item(image, origin) for image in response.data],
        output_format=response.output_format,
        size=response.output_size,
        usage=_usage(done),
        id=response.id,
        model=response.model,
        warnings=[*response.warnings, *body.unsupported_warnings()],
    )
    return images.model_dump_json()


def _usage(done: Generation) -> Usage:
    work = done.work
    return Usage(candidates=len(done.candidates), rows_stepped=work.rows_stepped, rows_unpruned=work.rows_unpruned)


def _item(image: ImageOutput, origin: str) -> ImageItem:
    members = image.model_dump(include=set(ImageItem.model_fields) - {"url"})
    return ImageItem(**members, url=f"{origin}{image.url}" if image.url else None)


async def _events(
    service: GenerationService, generation: Generation, body: ImagesRequest, names: EventNames
) -> AsyncIterator[bytes]:
    """The best preview of each requested round, then every returned image, best first.

    Pruning may use more preview rounds than requested. Raises as `require_images`.
    """
    common = {
        "created_at": int(generation.created),
        "size": "{}x{}".format(*file_size(generation)),
        "quality": "auto",
        "background": "opaque",
    }
    rounds, requested = 0, body.partial_images or 0
    async for preview in _best_previews(service.watch(generation.id)):
        if rounds == requested:
            continue
        header, _, data = preview.partition(";base64,")
        members = {"b64_json": data, "partial_image_index": rounds, "output_format": header.removeprefix("data:image/")}
        yield sse.encode_event(names.partial, {"type": names.partial, **members, **common})
        rounds += 1
    done = require_succeeded(await service.get(generation.id))
    response = await generation_response(service, done, "b64_json")
    require_images(done)
    warnings = [warning.model_dump(mode="json") for warning in (*response.warnings, *body.unsupported_warnings())]
    for image in response.data:
        members = image.model_dump(include=set(ImageItem.model_fields) - {"url"})
        usage = _usage(done).model_dump()
        result = {"id": done.id, "output_format": done.output_format, "usage": usage, "warnings": warnings}
        yield sse.encode_event(names.completed, {"type": names.completed, **members, **result, **common})


async def _best_previews(log: AsyncIterator[Event]) -> AsyncIterator[str]:
    """The best preview of every round, as a data URI.

    A round is one step; its best preview follows when the log continues with another step or event.
    """
    best: Mapping[str, Any] | None = None
    last_step = 0
    async for event in log:
        preview = event.data if event.kind is EventKind.PREVIEW else None
        if preview is not None and preview["image"] is None:  # withheld
            continue
        if best is not None and (preview is None or preview["step"] != best["step"]):
            yield str(best["image"])
            last_step, best = best["step"], None
        if preview is not None and preview["step"] > last_step:
            best = preview if best is None else max(best, preview, key=_preview_score)


def _preview_score(preview: Mapping[str, Any]) -> float:
    score = preview["score"]
    return float("-inf") if score is None else float(score)
