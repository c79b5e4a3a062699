"""Routes under /v1/batches: submit, list, read, cancel, delete."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Depends, Path, Request, Response

from app.api import openapi, problems
from app.api.dependencies import (
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
    unless_gone,
)
from app.api.json_body import JsonRoute
from app.api.routes.generations import build_params
from app.api.routes.listing import BATCH_ID, Cursor, Limit
from app.api.schemas.batches import (
    BatchListResponse,
    BatchRequest,
    BatchResponse,
    BatchSummary,
    SkippedEntry,
)
from app.api.schemas.listing import decode_cursor, encode_cursor
from app.api.schemas.requests import GenerationRequest
from app.api.schemas.variants import AutoVariants
from app.domain import RefusedEntry
from app.errors import FrontrunnerError, InvalidEntries, InvalidRequest, NotFound, QuotaExceeded, TooLarge
from app.service import PreparedGeneration, Wordings, batch_path

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=JsonRoute)

NO_WORDINGS: Wordings = ((), ())
"""What stands for the wordings of an entry while it is checked."""

_EXAMPLES: Any = {
    "two prompts": {
        "summary": "Two prompts, with different numbers of candidates",
        "value": {"requests": [{"prompt": "a red apple", "seed": 7}, {"prompt": "a green tree", "n_candidates": 8}]},
    },
}


async def _batch_id(
    batch_id: Annotated[
        str, Path(description="Id in the response to POST.", examples=["batch_01M8KEAKT88E4HDP00KRY0DYGH"])
    ],
) -> str:
    if not re.fullmatch(BATCH_ID, batch_id):
        raise NotFound("no batch has this id: an id is `batch_` and 26 Crockford base32 characters")
    return batch_id


BatchId: TypeAlias = Annotated[str, Depends(_batch_id)]


@router.post(
    "",
    summary="Submit a batch of generations",
    status_code=202,
    dependencies=[JsonBody],
    response_model=BatchResponse,
    responses={
        202: {"headers": openapi.header_docs(Location="URL of the batch.")},
        **openapi.error_responses(400, 404, 408, 413, 415, 422, 500, 503),
    },
)
async def create_batch(
    request: Request,
    response: Response,
    body: Annotated[BatchRequest, Body(openapi_examples=_EXAMPLES)],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> BatchResponse:
    """Stores every entry as a queued generation and returns at once.

    Entries run when no single request waits, on any replica. A batch with an invalid entry is refused with pointers
    to its fields, unless `on_error` is `skip`. All candidates are charged to the quota; those that are not delivered
    are given back as each entry ends.
    """
    key = build_idempotency_key(idempotency_key, router.prefix, body)
    batch_id = await services.batches.find_earlier(key)
    if batch_id is None:
        webhook = body.webhook.to_domain() if body.webhook is not None else None
        services.batches.check_webhook(webhook)
        entries, refused = await _prepare(request, services, body)
        batch_id = await services.batches.submit(entries, refused, webhook, key)
    response.headers["location"] = batch_path(batch_id)
    return await _response(services, batch_id)


async def _prepare(
    request: Request, services: Services, body: BatchRequest
) -> tuple[list[tuple[int, PreparedGeneration]], list[RefusedEntry]]:
    """The generations of valid entries, and the refused entries.

    Wordings are made once all entries are checked, so that a refused batch costs no call of the chat model. Raises
    InvalidEntries for invalid entries that are not to be skipped, or without a valid one.
    """
    desk = _Desk(request, services, time.monotonic())
    for index, entry in enumerate(body.requests):
        if isinstance(entry, SkippedEntry):
            desk.refused[index] = _invalid(index, entry)
        else:
            await desk.prepare(index, entry, NO_WORDINGS if isinstance(entry.variants, AutoVariants) else None)
    desk.check(body)
    asked = {
        index: (entry.prompt, entry.variants.auto)
        for index, entry in enumerate(body.requests)
        if index in desk.entries and isinstance(entry.variants, AutoVariants)
    }
    if asked:
        for index, made in (await unless_gone(request, services.variants.make_all(asked))).items():
            await desk.prepare(index, body.requests[index], made)
        desk.check(body)
    return sorted(desk.entries.items()), [desk.refused[index] for index in sorted(desk.refused)]


@dataclass(slots=True)
class _Desk:
    """The entries of a batch that are prepared, and those that are refused, by index.

    `pixels` are those of the control images of prepared entries.
    """

    request: Request
    services: Services
    since: float
    pixels: int = 0
    entries: dict[int, PreparedGeneration] = field(default_factory=dict)
    refused: dict[int, RefusedEntry] = field(default_factory=dict)

    async def prepare(self, index: int, entry: GenerationRequest, wordings: Wordings | None) -> None:
        """Prepare an entry, again if it is prepared.

        Raises TooLarge, and errors that are no fault of the entry.
        """
        if (earlier := self.entries.pop(index, None)) is not None:
            self.pixels -= earlier.input_pixels
        try:
            _check_effect(entry)
            own = await self.services.of_model(entry.model, self.since)
            params = await build_params(self.request, own, entry, wordings)
            self.entries[index] = prepared = await own.generations.prepare(params)
            self.pixels += prepared.input_pixels
        except FrontrunnerError as error:
            if error.status >= 500 or isinstance(error, QuotaExceeded):
                raise
            self.refused[index] = RefusedEntry(index, error.code, error.detail, _placed(index, error.pointer))
        limit = self.services.uploads.total_pixels
        if self.pixels > limit:
            raise TooLarge(
                f"the control images of the batch exceed {limit} pixels in total: send several batches",
                pointer=_placed(index, "#/control"),
            )

    def check(self, body: BatchRequest) -> None:
        """Check whether the batch can go on.

        Raises InvalidEntries for refused entries that are not to be skipped, or without a valid one.
        """
        if not self.refused or (body.on_error != "fail" and self.entries):
            return
        refused = [self.refused[index] for index in sorted(self.refused)]
        fields = tuple((one.detail, one.pointer or f"#/requests/{one.index}") for one in refused)
        advice = 'correct them, or send `on_error: "skip"`' if body.on_error == "fail" else "correct at least one"
        count = f"{len(refused)} of {len(body.requests)} entries cannot be made"
        raise InvalidEntries(f"{count}: {advice}", fields=fields)


def _check_effect(entry: GenerationRequest) -> None:
    """Raises InvalidRequest for what only the response to a single request can give."""
    if entry.response_format == "b64_json":
        raise InvalidRequest(
            "b64_json has no effect in a batch, whose results are read later: send url or omit the field",
            pointer="#/response_format",
        )


def _invalid(index: int, entry: SkippedEntry) -> RefusedEntry:
    fields = problems.fields_of(entry.errors, entry.value)
    others = [field.named for field in fields[1:3]]
    return RefusedEntry(
        index, InvalidEntries.code, "; ".join([fields[0].detail, *others]), _placed(index, fields[0].pointer)
    )


def _placed(index: int, pointer: str | None) -> str:
    """A pointer into an entry, as one into the batch."""
    return f"#/requests/{index}" + (pointer or "#").removeprefix("#")


@router.get("", summary="List batches", responses=openapi.error_responses(422, 503))
@router.head("", include_in_schema=False)
async def list_batches(services: ServicesDep, limit: Limit = 20, after: Cursor | None = None) -> BatchListResponse:
    """The batches of the caller's key, newest first, without their entries."""
    found, more = await services.batches.find(decode_cursor(after) if after else None, limit)
    last = found[-1][0] if more else None
    return BatchListResponse(
        data=[BatchSummary.from_domain(batch, counts) for batch, counts in found],
        has_more=more,
        next=encode_cursor(last.created, last.id) if last is not None else None,
    )


@router.get("/{batch_id}", summary="Read a batch", responses=openapi.error_responses(404, 503))
@router.head("/{batch_id}", include_in_schema=False)
async def read_batch(batch_id: BatchId, services: ServicesDep) -> BatchResponse:
    """The state of every entry; read results at `/v1/generations/{id}`."""
    return await _response(services, batch_id)


@router.post("/{batch_id}/cancel", summary="Cancel a batch", responses=openapi.error_responses(404, 503))
async def cancel_batch(batch_id: BatchId, services: ServicesDep) -> BatchResponse:
    """Cancels the entries that have not ended; the others keep their results."""
    await services.batches.cancel(batch_id)
    return await _response(services, batch_id)


@router.delete(
    "/{batch_id}", summary="Cancel and delete a batch", status_code=204, responses=openapi.error_responses(404, 503)
)
async def delete_batch(batch_id: BatchId, services: ServicesDep) -> None:
    """Cancels the batch, then deletes its entries with their logs and files."""
    await services.batches.delete(batch_id)


async def _response(services: Services, batch_id: str) -> BatchResponse:
    batch, counts = await services.batches.get(batch_id)
    return BatchResponse.with_entries(batch, counts, await services.batches.entries(batch_id))
