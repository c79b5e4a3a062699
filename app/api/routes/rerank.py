"""POST /v1/generations/{id}/rerank: other words, weights and pictures for the same candidates; nothing is sampled."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Body, Response
from fastapi import Request as Asking
from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.json_schema import SkipJsonSchema

from app.api import openapi
from app.api.dependencies import Face, FaceDep, GenerationId, IdempotencyKey, JsonBody, once
from app.api.json_body import JsonRoute
from app.api.ranking_inputs import resolve_ranking
from app.api.schemas.requests import RankingIn, Request
from app.api.schemas.responses import Answer, GenerationOut
from app.domain import Generation
from app.service import Reranking

router = APIRouter(prefix="/v1/generations", tags=["dialogue"], route_class=JsonRoute)

_EXAMPLES: Any = {
    "other words": {
        "summary": "Another prompt and one more thing to avoid, all sixteen in order",
        "value": {"ranking": {"prompt": "a green apple", "negatives": [{"text": "red", "weight": 2.0}]}, "n": 16},
    },
    "like a picture": {
        "summary": "As like candidate 3 as the prompt, and kept as a generation of its own",
        "value": {
            "ranking": {"references": [{"generation": openapi.GENERATION, "index": 3, "weight": 1.0}]},
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


class RerankRequest(Request):
    """Another ranking of the same candidates. Fields that `ranking` omits keep the generation's values."""

    ranking: RankingIn = RankingIn()
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


class LineageOut(Answer):
    """A dialogue from its root to the generation that was asked for. `missing` was forgotten; the walk ends at it."""

    object: str = "lineage"
    data: list[GenerationOut]
    missing: str | None


@router.post(
    "/{generation_id}/rerank",
    summary="Rank the candidates again",
    dependencies=[JsonBody],
    response_model=GenerationOut,
    responses={
        201: {
            "model": GenerationOut,
            "description": "Stored as a generation of its own.",
            "headers": openapi.headers(Location="The new generation."),
        },
        **openapi.errors(400, 404, 409, 413, 415, 422, 500, 503),
    },
)
async def rerank(
    request: Asking,
    generation_id: GenerationId,
    asked: Annotated[RerankRequest, Body(openapi_examples=_EXAMPLES)],
    face: FaceDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """All stored candidates, by what was kept of them; only texts that are new go through the scorer.

    With `store` an `Idempotency-Key` makes a repeated request get the first copy; without `store` it has no effect.
    """
    make = partial(_reranked, request, face, generation_id, asked)
    if not asked.store:
        return _json(GenerationOut.from_domain((await make())[1]))
    key = once(idempotency_key, f"{router.prefix}/{generation_id}/rerank", asked)
    kept = await face.dialogue.keep(make, key)
    return _json(GenerationOut.from_domain(kept), 201, {"location": f"{router.prefix}/{kept.id}"})


async def _reranked(
    request: Asking, face: Face, generation_id: str, asked: RerankRequest
) -> tuple[Generation, Generation]:
    """The generation, and as it would stand by the other ranking."""
    source = await face.service.get(generation_id)
    ranking = await resolve_ranking(request, face, asked.ranking, source.spec.ranking)
    return source, await face.dialogue.rerank(source, Reranking(ranking, asked.n, asked.include_pruned))


@router.get("/{generation_id}/lineage", summary="Walk a dialogue back", responses=openapi.errors(404, 503))
@router.head("/{generation_id}/lineage", include_in_schema=False)
async def lineage(generation_id: GenerationId, face: FaceDep) -> LineageOut:
    """The generation and every one it was refined or re-ranked from, as JSON to keep."""
    walked = await face.dialogue.lineage(generation_id)
    return LineageOut(data=[GenerationOut.from_domain(g) for g in walked.generations], missing=walked.missing)


def _json(body: GenerationOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
