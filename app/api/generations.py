"""/v1/generations: one address in four manners, and what is left of a generation. Rules are the service's."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from app.api import docs, sse
from app.api.answers import GenerationOut
from app.api.asking import begun, furnished
from app.api.deps import Face, FaceDep, GenerationId, IdempotencyKey, JsonBody, ServiceDep, finished, once
from app.api.negotiation import EVENTS, IMAGES, JSON, choose, prefers
from app.api.schemas import SIZE, GenerationRequest, ImageFormat, ResponseFormat, parse_size
from app.domain import EventKind, Generation
from app.errors import NothingAboveMinScore, about
from app.service import Draft, ImageFile, MakeDraft, Once, Service

router = APIRouter(prefix="/v1/generations", tags=["generations"])

KEPT = "private, max-age=86400, immutable"
"""A candidate's image never changes; it only goes when its generation is forgotten."""

STRENGTH = 0.75
"""How far candidates may go from an image, if the request does not say."""

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerationOut,
        "description": "The result, in the form that `Accept` asks for.",
        "content": {**docs.events(list(EventKind)), **docs.binary()},
        "headers": docs.headers(
            Location="The generation.",
            X_Frontrunner_Id="The generation, with an image.",
            X_Frontrunner_Seed="What makes this image again, with an image.",
            X_Frontrunner_Score="similarity - negative_weight * penalty, with an image.",
        ),
    },
    202: {
        "model": GenerationOut,
        "description": "Queued, for `Prefer: respond-async`.",
        "headers": docs.headers(Location="Where to look for the result.", Preference_Applied="respond-async"),
    },
}


@router.post(
    "",
    summary="Sample candidates and rank them",
    dependencies=[JsonBody],
    response_model=None,
    responses={**ANSWERS, **docs.errors(400, 404, 406, 408, 409, 413, 415, 422, 500, 503)},
)
async def create(
    request: Request,
    asked: Annotated[GenerationRequest, Body(openapi_examples=cast(Any, docs.REQUESTS))],
    face: FaceDep,
    prefer: Annotated[str, Header(description="`respond-async` answers 202 at once.")] = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Plain requests wait for the result; they and streams are cancelled when the client goes away.

    With an `Idempotency-Key` they go on all the same, for the client that comes back.
    """
    key = once(idempotency_key, router.prefix, asked)
    draft = partial(_draft, face, asked)
    return await respond(request, face.service, draft, (asked.response_format, asked.output_format), prefer, key)


async def _draft(face: Face, asked: GenerationRequest) -> Draft:
    """What was asked for, with all that it names looked up."""
    draft = asked.to_domain()
    draft = replace(draft, ranking=await furnished(face, asked.ranking, draft.ranking))
    if asked.image is None:
        return draft
    strength = STRENGTH if asked.strength is None else asked.strength
    return await begun(face, draft, asked.image, strength)


async def respond(
    request: Request,
    service: Service,
    draft: MakeDraft,
    forms: tuple[ResponseFormat, ImageFormat],
    prefer: str,
    key: Once | None,
) -> Response:
    """Submit a draft and answer in the manner that the request's headers ask for.

    `forms` tells how JSON holds the images, and in which format files are kept.
    """
    form, output_format = forms
    kinds = sorted(IMAGES, key=lambda kind: kind != f"image/{output_format}")
    manner = choose(request.headers.get("accept"), [JSON, EVENTS, *kinds])
    if manner is None:
        raise HTTPException(406, f"Accept must allow one of {JSON}, {EVENTS}, {', '.join(IMAGES)}")
    if manner == EVENTS:
        return await _streamed(service, draft, form, key)
    if manner in IMAGES:
        output_format = cast(ImageFormat, manner.removeprefix("image/"))
        generation = await service.submit(partial(_kept_as, output_format, draft), once=key, watched=False)
        with about(generation.id):
            done = await finished(request, service, generation.id, keep=key is not None)
            return await _picture(service, done, output_format)
    if prefers(prefer, "respond-async"):
        return _accepted(service, await service.submit(draft, once=key, patient=True))
    generation = await service.submit(draft, once=key, watched=False)
    with about(generation.id):
        done = await finished(request, service, generation.id, keep=key is not None)
        return _json(await result(service, done, form), headers=_location(done.id))


async def _kept_as(output_format: ImageFormat, draft: MakeDraft) -> Draft:
    return replace(await draft(), output_format=output_format)


@router.get("/{generation_id}", summary="A generation as it stands", responses=docs.errors(404, 503))
@router.head("/{generation_id}", include_in_schema=False)
async def read(generation_id: GenerationId, service: ServiceDep) -> GenerationOut:
    """Any replica knows it; `queue_position` and `eta_seconds` are this one's guess while it is not done."""
    return _standing(service, await service.get(generation_id))


@router.get(
    "/{generation_id}/events",
    summary="A generation's log, as server-sent events",
    response_class=Response,
    responses={
        200: {"content": docs.events(list(EventKind))},
        204: {"description": "`Last-Event-ID` is the closing line; an EventSource does not come back after this."},
        **docs.errors(404, 422, 503),
    },
)
async def events(
    generation_id: GenerationId,
    service: ServiceDep,
    last_event_id: Annotated[int, Header(ge=0, lt=2**31, description="Lines up to this one are left out.")] = 0,
) -> Response:
    """From the first line, or the one after `Last-Event-ID`, to the closing one, which holds the generation.

    `image` of a preview is null where the generation was waited for and previews were not asked for.
    """
    if await service.told(generation_id, last_event_id):
        return Response(status_code=204)
    log = _log(service, generation_id, last_event_id, "url")
    return sse.EventStream(generation_id, log, life_s=service.limits.stream_s)


@router.get(
    "/{generation_id}/images/{index}",
    summary="A candidate's image",
    response_class=Response,
    responses={
        200: {"content": docs.binary(), "headers": docs.headers(ETag="Of these bytes.", Cache_Control=KEPT)},
        304: {"description": "The caller has these bytes already."},
        **docs.errors(404, 409, 422, 500, 503),
    },
)
@router.head("/{generation_id}/images/{index}", include_in_schema=False)
async def image(
    generation_id: GenerationId,
    index: Annotated[int, Path(ge=0, lt=2**31, description="The candidate's, 0 to N-1.")],
    service: ServiceDep,
    form: Annotated[
        ImageFormat | None, Query(alias="format", description="Default: what the generation asked.")
    ] = None,
    size: Annotated[str | None, Query(pattern=SIZE, description="WIDTHxHEIGHT to fit in; never enlarged.")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Of any of the N; those not returned are made from what was stored when first asked for."""
    generation = await service.get(generation_id)
    box = parse_size(size) if size else None
    file = await service.image(generation_id, index, form or generation.output_format, box)
    headers = {"etag": file.etag, "cache-control": KEPT}
    if _held(if_none_match, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


@router.delete("/{generation_id}", summary="Cancel and forget", status_code=204, responses=docs.errors(404, 503))
async def forget(generation_id: GenerationId, service: ServiceDep) -> None:
    """Stops it if it runs, then deletes its record, its log and its files."""
    await service.forget(generation_id)


async def result(service: Service, generation: Generation, form: ResponseFormat) -> GenerationOut:
    """A generation that succeeded, with links or with the images themselves."""
    if form == "url":
        return GenerationOut.from_domain(generation)
    return GenerationOut.from_domain(generation, files=await encoded(service, generation))


async def encoded(service: Service, generation: Generation) -> dict[int, str]:
    """The returned images in base64, by index."""
    indices = [c.index for c in generation.best]
    files = await asyncio.gather(*(service.image(generation.id, i, generation.output_format) for i in indices))
    return {i: base64.b64encode(file.data).decode("ascii") for i, file in zip(indices, files, strict=True)}


async def _streamed(service: Service, draft: MakeDraft, form: ResponseFormat, key: Once | None) -> Response:
    generation = await service.submit(draft, once=key)
    return sse.EventStream(
        generation.id,
        _log(service, generation.id, 0, form),
        life_s=service.limits.stream_s,
        headers=_location(generation.id),
        on_gone=partial(service.forsake, generation.id) if key is None else None,
    )


async def _log(service: Service, generation_id: str, after: int, form: ResponseFormat) -> AsyncIterator[bytes]:
    """The log as bytes. The closing line holds the generation, as GET would give it."""
    async for line in service.watch(generation_id, after):
        if not line.kind.final:
            yield sse.event(line.kind, line.data, line.seq)
            continue
        generation = await service.get(generation_id)
        with_files = line.kind is EventKind.SUCCEEDED and form == "b64_json"
        answer = await result(service, generation, "b64_json" if with_files else "url")
        yield sse.event(line.kind, answer, line.seq)


def expect_some(images: Sequence[object]) -> None:
    """Where the first image is the answer there must be one. Raises NothingAboveMinScore."""
    if not images:
        raise NothingAboveMinScore("no candidate reached min_score", pointer="#/ranking/min_score")


async def _picture(service: Service, generation: Generation, output_format: str) -> Response:
    """The winner's bytes."""
    expect_some(generation.best)
    best = generation.best[0]
    file: ImageFile = await service.image(generation.id, best.index, output_format)
    score = best.score.score if best.score is not None else math.nan
    told = {
        "x-frontrunner-id": generation.id,
        "x-frontrunner-seed": str(best.seed),
        "x-frontrunner-score": f"{score:.6f}",
    }
    return Response(
        file.data,
        media_type=file.media_type,
        headers={**_location(generation.id), **told, "etag": file.etag, "cache-control": "no-store", "vary": "accept"},
    )


def _accepted(service: Service, generation: Generation) -> Response:
    body = _standing(service, generation)
    pause = min(30, max(1, math.ceil(body.eta_seconds or 1)))
    headers = {**_location(generation.id), "preference-applied": "respond-async", "retry-after": str(pause)}
    return _json(body, 202, headers)


def _standing(service: Service, generation: Generation) -> GenerationOut:
    place = None if generation.status.final else service.place(generation)
    return GenerationOut.from_domain(generation, place=place)


def _json(body: GenerationOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type=JSON)


def _location(generation_id: str) -> dict[str, str]:
    return {"location": f"{router.prefix}/{generation_id}", "vary": "accept, prefer"}


def _held(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller's `If-None-Match` names this ETag; weak ones count, as RFC 9110 wants it."""
    held = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return bool(held & {etag, "*"})
