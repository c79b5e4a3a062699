"""Why a candidate stands where it stands, where in the picture, and words worth trying."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Response

from app.api import openapi
from app.api.dependencies import GenerationId, ServicesDep
from app.api.schemas.responses import ResponseModel
from app.service import PhraseScore

router = APIRouter(prefix="/v1", tags=["dialogue"])

CandidateIndex: TypeAlias = Annotated[int, Path(ge=0, lt=2**31, description="The candidate's, 0 to N-1.")]


class PhraseScoreOutput(ResponseModel):
    """A phrase: the candidate's cosine with it, and its rank by that cosine among all candidates."""

    text: str
    aspect: Literal["content", "style", "composition"]
    similarity: float
    rank: int
    heat_map: str

    @classmethod
    def from_domain(cls, phrase: PhraseScore, heat_map_url: str) -> PhraseScoreOutput:
        """`heat_map_url` is the address of heat maps of this candidate."""
        link = f"{heat_map_url}?{urlencode({'text': phrase.text})}"
        return cls(
            text=phrase.text, aspect=phrase.aspect.value, similarity=phrase.similarity, rank=phrase.rank, heat_map=link
        )


class ExplanationResponse(ResponseModel):
    """A candidate, phrase by phrase. `of` is the number of candidates that a rank counts."""

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
    """All presets, in the order of their file."""

    object: Literal["list"] = "list"
    data: list[PresetOutput]


@router.get(
    "/generations/{generation_id}/candidates/{index}/why",
    summary="Why this one",
    responses=openapi.error_responses(404, 409, 422, 500, 503),
)
@router.head("/generations/{generation_id}/candidates/{index}/why", include_in_schema=False)
async def explain_candidate(
    generation_id: GenerationId,
    index: CandidateIndex,
    services: ServicesDep,
    prompt: Annotated[str | None, Query(description="In place of what the candidates were compared with.")] = None,
) -> ExplanationResponse:
    """The prompt is cut at commas, conjunctions and before its background.

    Style and composition are told by the words of the presets.
    """
    explanation = await services.explainer.explain(await services.generations.get(generation_id), index, prompt)
    heat_map_url = f"{router.prefix}/generations/{generation_id}/candidates/{index}/heat"
    return ExplanationResponse(
        generation=generation_id,
        index=index,
        of=explanation.n_candidates,
        phrases=[PhraseScoreOutput.from_domain(t, heat_map_url) for t in explanation.phrases],
        negatives=[PhraseScoreOutput.from_domain(t, heat_map_url) for t in explanation.negatives],
    )


@router.get(
    "/generations/{generation_id}/candidates/{index}/heat",
    summary="Where in the picture",
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
    text: Annotated[str, Query(description="What is looked for.")],
) -> Response:
    """A PNG of the image's size, the warmer the more alike; 422 `no_patches` with scorers that see no parts."""
    file = await services.explainer.heat_map(await services.generations.get(generation_id), index, text)
    return Response(file.data, media_type=file.media_type, headers={"etag": file.etag})


@router.get("/presets", summary="Words worth trying")
@router.head("/presets", include_in_schema=False)
async def list_presets(services: ServicesDep) -> PresetListResponse:
    """Light, mood, framing and medium, from a file that the operator may replace."""
    return PresetListResponse(
        data=[
            PresetOutput(group=p.group, aspect=p.aspect.value, name=p.name, prompt=p.prompt, negative=p.negative)
            for p in services.explainer.presets.items
        ]
    )
