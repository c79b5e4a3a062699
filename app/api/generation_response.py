"""A generation in the form that the request's headers ask for: JSON, event stream, image bytes, or 202."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from app.api import openapi, sse
from app.api.dependencies import finished
from app.api.negotiation import EVENTS, IMAGES, JSON, choose, prefers
from app.api.schemas.requests import ImageFormat, ResponseFormat
from app.api.schemas.responses import GenerationOut
from app.domain import EventKind, Generation
from app.errors import NothingAboveMinScore, about
from app.service import Draft, ImageFile, MakeDraft, Once, Service

PREFIX = "/v1/generations"


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": GenerationOut,
        "description": "The result, in the form that `Accept` asks for.",
        "content": {**openapi.events(list(EventKind)), **openapi.binary()},
        "headers": openapi.headers(
            Location="The generation.",
            X_Frontrunner_Id="The generation, with an image.",
            X_Frontrunner_Seed="What makes this image again, with an image.",
            X_Frontrunner_Score="similarity - negative_weight * penalty, with an image.",
        ),
    },
    202: {
        "model": GenerationOut,
        "description": "Queued, for `Prefer: respond-async`.",
        "headers": openapi.headers(Location="Where to look for the result.", Preference_Applied="respond-async"),
    },
}


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
    generation = await service.submit(draft, once=key, attended=key is None)
    return sse.EventStream(
        generation.id,
        event_log(service, generation.id, 0, form),
        life_s=service.limits.stream_s,
        headers=_location(generation.id),
    )


async def event_log(service: Service, generation_id: str, after: int, form: ResponseFormat) -> AsyncIterator[bytes]:
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
    body = standing(service, generation)
    pause = min(30, max(1, math.ceil(body.eta_seconds or 1)))
    headers = {**_location(generation.id), "preference-applied": "respond-async", "retry-after": str(pause)}
    return _json(body, 202, headers)


def standing(service: Service, generation: Generation) -> GenerationOut:
    """A generation as it is now, with its place in the queue while it is not final."""
    place = None if generation.status.final else service.place(generation)
    return GenerationOut.from_domain(generation, place=place)


def _json(body: GenerationOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type=JSON)


def _location(generation_id: str) -> dict[str, str]:
    return {"location": f"{PREFIX}/{generation_id}", "vary": "accept, prefer"}
