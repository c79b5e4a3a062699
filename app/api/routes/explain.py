"""Explanations of scores, heat maps and prompt presets."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response

from app.api import openapi
from app.api.dependencies import CandidateIndex, GenerationId, ServicesDep
from app.api.schemas.base import ResponseModel
from app.service import PhraseScore, generation_path

router = APIRouter(prefix="/v1", tags=["dialogue"])


class PhraseScoreOutput(ResponseModel):
    """A phrase, the candidate's cosine with it, and its rank by that cosine.

    The rank is among all candidates. `heat_map` is the path of the heat map.
    """

    text: str
    aspect: Literal["content", "style", "composition"]
    similarity: float
    rank: int
    heat_map: str

    @classmethod
    def from_domain(cls, phrase: PhraseScore, heat_map_url: str) -> PhraseScoreOutput:
        """Convert from the domain; `heat_map_url` is the path of the heat map route."""
        link = f"{heat_map_url}?{urlencode({'text': phrase.text})}"
        return cls(
            text=phrase.text, aspect=phrase.aspect.value, similarity=phrase.similarity, rank=phrase.rank, heat_map=link
        )


class ExplanationResponse(ResponseModel):
    """A candidate's scores by phrase; `of` is the number of ranked candidates."""

    object: Literal["why"] = "why"
    generation: str
    index: int
    of: int
    phrases: list[PhraseScoreOutput]
    negatives: list[PhraseScoreOutput]


class PresetOutput(ResponseModel):
    """Words to add to a prompt and to a negative prompt."""

    group: str
    aspect: Literal["content", "style", "composition"]
    name: str
    prompt: str
    negative: str


class PresetListResponse(ResponseModel):
    """All presets, in the order of the file."""

    object: Literal["list"] = "list"
    data: list[PresetOutput]


@router.get(
    "/generations/{generation_id}/candidates/{index}/why",
    summary="Explain a candidate's score by phrase",
    responses=openapi.error_responses(404, 409, 422, 500, 503),
)
@router.head("/generations/{generation_id}/candidates/{index}/why", include_in_schema=False)
async def explain_candidate(
    generation_id: GenerationId,
    index: CandidateIndex,
    services: ServicesDep,
    prompt: Annotated[str | None, Query(description="Text to explain. Default: the text of the ranking.")] = None,
) -> ExplanationResponse:
    """Splits the prompt at commas, at conjunctions and before its background.

    The presets identify phrases of style and composition.
    """
    explanation = await services.explainer.explain(await services.generations.get(generation_id), index, prompt)
    heat_map_url = f"{generation_path(generation_id)}/candidates/{index}/heat"
    return ExplanationResponse(
        generation=generation_id,
        index=index,
        of=explanation.n_candidates,
        phrases=[PhraseScoreOutput.from_domain(t, heat_map_url) for t in explanation.phrases],
        negatives=[PhraseScoreOutput.from_domain(t, heat_map_url) for t in explanation.negatives],
    )


@router.get(
    "/generations/{generation_id}/candidates/{index}/heat",
    summary="Heat map of a text in a candidate",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **openapi.error_responses(404, 409, 422, 500, 503),
    },
)
@router.head("/generations/{generation_id}/candidates/{index}/heat", include_in_schema=False)
async def read_heat_map(
    generation_id: GenerationId,
    index: CandidateIndex,
    services: ServicesDep,
    text: Annotated[str, Query(description="Text to locate in the image.")],
) -> Response:
    """A PNG of the image's size; warmer colours mean higher similarity.

    422 `no_patches` when the scorer has no patch embeddings.
    """
    file = await services.explainer.heat_map(await services.generations.get(generation_id), index, text)
    return Response(file.data, media_type=file.media_type, headers={"etag": file.etag})


@router.get("/presets", summary="List prompt presets")
@router.head("/presets", include_in_schema=False)
async def list_presets(services: ServicesDep) -> PresetListResponse:
    """Presets for light, mood, framing and medium; the operator can replace the file."""
    return PresetListResponse(
        data=[
            PresetOutput(group=p.group, aspect=p.aspect.value, name=p.name, prompt=p.prompt, negative=p.negative)
            for p in services.explainer.presets.items
        ]
    )
