"""POST /v1/generations/{id}/rerank: other words, weights and pictures for the same candidates; nothing is sampled."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Response
from fastapi import Request as Asking
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
from app.api.schemas.requests import RankingInput, RequestModel
from app.api.schemas.responses import GenerationResponse, ResponseModel
from app.domain import Generation
from app.service import RerankParams

router = APIRouter(prefix="/v1/generations", tags=["dialogue"], route_class=JsonRoute)

_EXAMPLES: Any = {
    "other words": {
        "summary": "Another prompt and one more thing to avoid, all sixteen in order",
        "value": {"ranking": {"prompt": "a green apple", "negatives": [{"text": "red", "weight": 2.0}]}, "n": 16},
    },
    "like a picture": {
        "summary": "As like candidate 3 as the prompt, and kept as a generation of its own",
        "value": {
            "ranking": {"references": [{"generation": openapi.EXAMPLE_GENERATION_ID, "index": 3, "weight": 1.0}]},
            "store": True,
        },
    },
    "kept apart": {
        "summary": "The same words, near-duplicates left out",
        "value": {"ranking": {"diversity": 0.5}, "n": 4},
    },
}


def _refuse_moved(_: object, info: ValidationInfo) -> None:
    place = "negatives" if info.field_name == "negative_prompt" else info.field_name
    raise ValueError(f"the field moved: send it as ranking.{place}")


Moved: TypeAlias = SkipJsonSchema[Annotated[None, BeforeValidator(_refuse_moved)]]
"""A field of an earlier form of the request: refused with its new place, absent from the OpenAPI document."""


class RerankRequest(RequestModel):
    """Another ranking of the same candidates. Fields that `ranking` omits keep the generation's values."""

    ranking: RankingInput = RankingInput()
    n: int | None = Field(None, ge=1, le=1024, description="Images that are returned, best first.")
    include_pruned: bool | None = Field(
        None,
        description="Whether pruned candidates compete, by their last preview. Default: if words or pictures changed.",
    )
    store: bool = Field(False, description="Keep the answer as a generation of its own.")

    prompt: Moved = None
    negative_prompt: Moved = None
    negatives: Moved = None
    negative_weight: Moved = None
    references: Moved = None
    taste: Moved = None
    diversity: Moved = None
    min_score: Moved = None


class LineageResponse(ResponseModel):
    """A dialogue from its root to the generation that was asked for. `missing` was forgotten; the walk ends at it."""

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
            "description": "Stored as a generation of its own.",
            "headers": openapi.header_docs(Location="The new generation."),
        },
        **openapi.error_responses(400, 404, 409, 413, 415, 422, 500, 503),
    },
)
async def rerank_generation(
    request: Asking,
    generation_id: GenerationId,
    body: Annotated[RerankRequest, Body(openapi_examples=_EXAMPLES)],
    services: ServicesDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """All stored candidates, by what was kept of them; only texts that are new go through the scorer.

    With `store` an `Idempotency-Key` makes a repeated request get the first copy; without `store` it has no effect.
    """
    make = partial(_reranked, request, services, generation_id, body)
    if not body.store:
        return _json_response(GenerationResponse.from_domain((await make())[1]))
    key = build_idempotency_key(idempotency_key, f"{router.prefix}/{generation_id}/rerank", body)
    saved = await services.ranking.save(make, key)
    return _json_response(GenerationResponse.from_domain(saved), 201, {"location": f"{router.prefix}/{saved.id}"})


async def _reranked(
    request: Asking, services: Services, generation_id: str, body: RerankRequest
) -> tuple[Generation, Generation]:
    """The generation, and as it would stand by the other ranking."""
    source = await services.generations.get(generation_id)
    ranking = await resolve_ranking(request, services, body.ranking, source.spec.ranking)
    return source, await services.ranking.rerank(source, RerankParams(ranking, body.n, body.include_pruned))


@router.get("/{generation_id}/lineage", summary="Walk a dialogue back", responses=openapi.error_responses(404, 503))
@router.head("/{generation_id}/lineage", include_in_schema=False)
async def read_lineage(generation_id: GenerationId, services: ServicesDep) -> LineageResponse:
    """The generation and every one it was refined or re-ranked from, as JSON to keep."""
    lineage = await services.ranking.lineage(generation_id)
    return LineageResponse(
        data=[GenerationResponse.from_domain(g) for g in lineage.generations], missing=lineage.missing
    )


def _json_response(body: GenerationResponse, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
