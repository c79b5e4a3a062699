"""POST /v1/generations/{id}/rerank: rank candidates again without sampling."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Request, Response
from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi
from app.api.dependencies import (
    GenerationId,
    IdempotencyKeyHeader,
    JsonBody,
    Services,
    ServicesDep,
    build_idempotency_key,
)
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.base import Count, RequestModel, ResponseModel
from app.api.schemas.ranking.inputs import RankingInput
from app.api.schemas.responses import GenerationResponse
from app.domain import Generation
from app.service import RerankParams, generation_path

router = APIRouter(prefix="/v1/generations", tags=["dialogue"], route_class=JsonRoute)

_EXAMPLES: Any = {
    "new prompt": {
        "summary": "Another prompt and a negative; return all sixteen",
        "value": {"ranking": {"prompt": "a green apple", "negatives": [{"text": "red", "weight": 2.0}]}, "n": 16},
    },
    "reference": {
        "summary": "Candidate 3 as a reference of weight 1, stored as a new generation",
        "value": {
            "ranking": {"references": [{"generation": openapi.EXAMPLE_GENERATION_ID, "index": 3, "weight": 1.0}]},
            "store": True,
        },
    },
    "diversity": {
        "summary": "The same prompt without near-duplicates",
        "value": {"ranking": {"diversity": 0.5}, "n": 4},
    },
}


def _refuse_moved(_: object, info: ValidationInfo) -> None:
    place = "negatives" if info.field_name == "negative_prompt" else info.field_name
    raise ValueError(f"the field moved: send it as `ranking.{place}`")


Moved: TypeAlias = SkipJsonSchema[Annotated[None, BeforeValidator(_refuse_moved)]]
"""A field that moved: refused with its new place, not in the OpenAPI document."""


class RerankRequest(RequestModel):
    """A new ranking of the same candidates.

    Fields that `ranking` omits keep the generation's values.
    """

    ranking: RankingInput = RankingInput()
    n: Count | None = Field(None, description="Images to return, best first.")
    include_pruned: bool | None = Field(
        None,
        description="Rank pruned candidates by their last preview. Default: true if texts or references changed.",
    )
    store: bool = Field(False, description="Store the result as a new generation.")

    prompt: Moved = None
    negative_prompt: Moved = None
    negatives: Moved = None
    negative_weight: Moved = None
    references: Moved = None
    taste: Moved = None
    diversity: Moved = None
    min_score: Moved = None


class LineageResponse(ResponseModel):
    """The ancestors of a generation, from the root to itself.

    `missing` is the id of a deleted ancestor, before which the lineage is unknown.
    """

    object: str = "lineage"
    data: list[GenerationResponse]
    missing: str | None


@router.post(
    "/{generation_id}/rerank",
    summary="Rank the candidates again",
    dependencies=[JsonBody],
    response_model=GenerationResponse,
    responses={
        201: {
            "model": GenerationResponse,
            "description": "Stored as a new generation.",
            "headers": openapi.header_docs(Location="URL of the new generation."),
        },
        **openapi.error_responses(400, 404, 409, 413, 415, 422, 500, 503),
    },
)
async def rerank_generation(
    request: Request,
    generation_id: GenerationId,
    body: Annotated[RerankRequest, Body(openapi_examples=_EXAMPLES)],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Ranks stored embeddings; the scorer encodes only new texts and uploads.

    With `store`, a repeat with the same `Idempotency-Key` returns the first copy. Without it, the key has no effect.
    """
    rerank = partial(_rerank, request, services, generation_id, body)
    if not body.store:
        return _json_response(GenerationResponse.from_domain((await rerank())[1]))
    key = build_idempotency_key(idempotency_key, f"{router.prefix}/{generation_id}/rerank", body)
    saved = await services.ranking.save(rerank, key)
    return _json_response(GenerationResponse.from_domain(saved), 201, {"location": generation_path(saved.id)})


async def _rerank(
    request: Request, services: Services, generation_id: str, body: RerankRequest
) -> tuple[Generation, Generation]:
    """The generation, and the generation with the new ranking."""
    source = await services.generations.get(generation_id)
    ranking = await resolve_ranking(request, services, body.ranking, source.spec.ranking)
    return source, await services.ranking.rerank(source, RerankParams(ranking, body.n, body.include_pruned))


@router.get(
    "/{generation_id}/lineage",
    summary="List the ancestors of a generation",
    responses=openapi.error_responses(404, 503),
)
@router.head("/{generation_id}/lineage", include_in_schema=False)
async def read_lineage(generation_id: GenerationId, services: ServicesDep) -> LineageResponse:
    """The generation and all generations it was refined or re-ranked from."""
    lineage = await services.ranking.lineage(generation_id)
    return LineageResponse(
        data=[GenerationResponse.from_domain(g) for g in lineage.generations], missing=lineage.missing
    )


def _json_response(body: GenerationResponse, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
