"""GET /v1/generations: the caller's generations, newest first."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Query
from pydantic import AfterValidator

from app.api import openapi
from app.api.dependencies import GenerationServiceDep
from app.api.schemas.base import Between
from app.api.schemas.listing import GenerationListResponse, GenerationSummary, decode_cursor, encode_cursor
from app.api.schemas.messages import described
from app.domain import Status
from app.service import ListQuery

router = APIRouter(prefix="/v1/generations", tags=["generations"])

MAX_PAGE = 100
"""Maximum generations of one page."""

BATCH_ID = described("^batch_[0-9A-HJKMNP-TV-Z]{26}$", "the id of a batch: `batch_` and 26 characters")

_LATEST = 2.0**53


def _check_cursor(cursor: str) -> str:
    decode_cursor(cursor)
    return cursor


Cursor: TypeAlias = Annotated[
    str,
    Query(
        pattern=described(r"^[A-Za-z0-9_-]{1,200}$", "the `next` of the previous page"),
        description="`next` of the previous page.",
    ),
    AfterValidator(_check_cursor),
]
Limit: TypeAlias = Annotated[int, Between(1, MAX_PAGE), Query(description="Maximum entries of the page.")]
Time: TypeAlias = Annotated[float, Between(0, _LATEST), Query(allow_inf_nan=False)]


@router.get("", summary="List generations", responses=openapi.error_responses(422, 503))
@router.head("", include_in_schema=False)
async def list_generations(
    service: GenerationServiceDep,
    status: Annotated[
        list[Status], Query(max_length=len(Status), description="Only these; may be repeated. Default: all.")
    ] = [],  # noqa: B006 - FastAPI copies defaults
    limit: Limit = 20,
    after: Cursor | None = None,
    created_after: Annotated[Time | None, Query(description="Created then or later, in epoch seconds.")] = None,
    created_before: Annotated[Time | None, Query(description="Created earlier, in epoch seconds.")] = None,
    batch: Annotated[str | None, Query(pattern=BATCH_ID, description="Only entries of this batch.")] = None,
) -> GenerationListResponse:
    """The generations of the caller's key, newest first.

    Pages do not shift when generations are added or deleted meanwhile: pass `next` as `after`.
    """
    query = ListQuery("", tuple(status), created_after, created_before, batch)
    found, more = await service.find(query, decode_cursor(after) if after else None, limit)
    return GenerationListResponse(
        data=[GenerationSummary.from_domain(generation) for generation in found],
        has_more=more,
        next=encode_cursor(found[-1].created, found[-1].id) if more else None,
    )
