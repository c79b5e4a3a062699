"""POST /v1/generations/{id}/rerank: other words, weights and pictures for the same candidates; nothing is sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import Field

from app.api import openapi, ranking_inputs
from app.api.dependencies import FaceDep, GenerationId, JsonBody
from app.api.schemas.requests import MOST_ITEMS, Float, NegativeIn, ReferenceIn, Request, TasteIn, Text, Words
from app.api.schemas.responses import Answer, GenerationOut
from app.domain import Negative, Ranking
from app.service import Reranking

router = APIRouter(prefix="/v1/generations", tags=["dialogue"])

_EXAMPLES: Any = {
    "other words": {
        "summary": "Another prompt and one more thing to avoid, all sixteen in order",
        "value": {"prompt": "a green apple", "negatives": [{"text": "red", "weight": 2.0}], "n": 16},
    },
    "like a picture": {
        "summary": "As like candidate 3 as the prompt, and kept as a generation of its own",
        "value": {"references": [{"generation": openapi.GENERATION, "index": 3, "weight": 1.0}], "store": True},
    },
    "kept apart": {"summary": "The same words, near-duplicates left out", "value": {"diversity": 0.5, "n": 4}},
}


class RerankRequest(Request):
    """Another ranking. Whatever is left out stays as it was in the generation."""

    prompt: Words | None = Field(None, description="What the candidates are compared with from now on.")
    negative_prompt: Text | None = Field(None, description="In place of the negative prompt, in ranking; empty: none.")
    negatives: list[NegativeIn] | None = Field(
        None, max_length=MOST_ITEMS, description="In place of ranking.negatives."
    )
    negative_weight: Float | None = Field(None, ge=0, le=10)
    references: list[ReferenceIn] | None = Field(
        None, max_length=MOST_ITEMS, description="In place of ranking.references."
    )
    diversity: Float | None = Field(None, ge=0, le=1)
    min_score: Float | None = Field(None, ge=-20, le=1, description="null lets all pass.")
    taste: TasteIn | None = Field(None, description="null leaves taste out.")
    n: int | None = Field(None, ge=1, le=1024, description="Images that are returned, best first.")
    include_pruned: bool | None = Field(
        None,
        description="Whether pruned candidates compete, by their last preview. Default: if words or pictures changed.",
    )
    store: bool = Field(False, description="Keep the answer as a generation of its own.")

    def ranking(self, own: Ranking) -> Ranking:
        """`own` with the changes, but for references and taste."""
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("prompt", "negative_weight", "diversity")
            if getattr(self, name) is not None
        }
        if self.negatives is not None:
            changes["negatives"] = tuple(n.to_domain() for n in self.negatives)
        if self.negative_prompt is not None:
            first = (Negative(self.negative_prompt),) if self.negative_prompt else ()
            changes |= {"own_negative": False, "negatives": first + changes.get("negatives", own.negatives)}
        if "min_score" in self.model_fields_set:
            changes["min_score"] = self.min_score
        return replace(own, **changes)


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
    generation_id: GenerationId, asked: Annotated[RerankRequest, Body(openapi_examples=_EXAMPLES)], face: FaceDep
) -> Response:
    """All stored candidates, by what was kept of them; only texts that are new go through the scorer."""
    source = await face.service.get(generation_id)
    ranking = asked.ranking(source.spec.ranking)
    if asked.references is not None:
        ranking = replace(ranking, references=await ranking_inputs.references(face, asked.references, "#/references"))
    if "taste" in asked.model_fields_set:
        ranking = replace(ranking, taste=await ranking_inputs.taste(face, asked.taste, "#/taste"))
    reranked = await face.dialogue.rerank(source, Reranking(ranking, asked.n, asked.include_pruned))
    if not asked.store:
        return _json(GenerationOut.from_domain(reranked))
    kept = await face.dialogue.keep(source, reranked)
    return _json(GenerationOut.from_domain(kept), 201, {"location": f"{router.prefix}/{kept.id}"})


@router.get("/{generation_id}/lineage", summary="Walk a dialogue back", responses=openapi.errors(404, 503))
@router.head("/{generation_id}/lineage", include_in_schema=False)
async def lineage(generation_id: GenerationId, face: FaceDep) -> LineageOut:
    """The generation and every one it was refined or re-ranked from, as JSON to keep."""
    walked = await face.dialogue.lineage(generation_id)
    return LineageOut(data=[GenerationOut.from_domain(g) for g in walked.generations], missing=walked.missing)


def _json(body: GenerationOut, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body.model_dump_json(), status, headers, media_type="application/json")
