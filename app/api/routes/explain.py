"""Why a candidate stands where it stands, where in the picture, and words worth trying."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Response

from app.api import openapi
from app.api.dependencies import FaceDep, GenerationId
from app.api.schemas.responses import Answer
from app.service import Told

router = APIRouter(prefix="/v1", tags=["dialogue"])

Index: TypeAlias = Annotated[int, Path(ge=0, lt=2**31, description="The candidate's, 0 to N-1.")]


class ToldOut(Answer):
    """A phrase: the candidate's cosine with it, and its rank by that cosine among all candidates."""

    text: str
    aspect: Literal["content", "style", "composition"]
    similarity: float
    rank: int
    heat_map: str

    @classmethod
    def from_domain(cls, told: Told, where: str) -> ToldOut:
        """`where` is the address of heat maps of this candidate."""
        link = f"{where}?{urlencode({'text': told.text})}"
        return cls(text=told.text, aspect=told.aspect.value, similarity=told.similarity, rank=told.rank, heat_map=link)


class WhyOut(Answer):
    """A candidate, phrase by phrase. `of` is the number of candidates that a rank counts."""

    object: Literal["why"] = "why"
    generation: str
    index: int
    of: int
    phrases: list[ToldOut]
    negatives: list[ToldOut]


class PresetOut(Answer):
    """Words to add to a prompt and to a negative prompt."""

    group: str
    aspect: Literal["content", "style", "composition"]
    name: str
    prompt: str
    negative: str


class PresetsOut(Answer):
    """All presets, in the order of their file."""

    object: Literal["list"] = "list"
    data: list[PresetOut]


@router.get(
    "/generations/{generation_id}/candidates/{index}/why",
    summary="Why this one",
    responses=openapi.errors(404, 409, 422, 500, 503),
)
@router.head("/generations/{generation_id}/candidates/{index}/why", include_in_schema=False)
async def why(
    generation_id: GenerationId,
    index: Index,
    face: FaceDep,
    prompt: Annotated[str | None, Query(description="In place of what the candidates were compared with.")] = None,
) -> WhyOut:
    """The prompt is cut at commas, conjunctions and before its background.

    Style and composition are told by the words of the presets.
    """
    told = await face.explainer.why(await face.service.get(generation_id), index, prompt)
    where = f"{router.prefix}/generations/{generation_id}/candidates/{index}/heat"
    return WhyOut(
        generation=generation_id,
        index=index,
        of=told.of,
        phrases=[ToldOut.from_domain(t, where) for t in told.phrases],
        negatives=[ToldOut.from_domain(t, where) for t in told.negatives],
    )


@router.get(
    "/generations/{generation_id}/candidates/{index}/heat",
    summary="Where in the picture",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **openapi.errors(404, 409, 422, 500, 503),
    },
)
@router.head("/generations/{generation_id}/candidates/{index}/heat", include_in_schema=False)
async def heat(
    generation_id: GenerationId,
    index: Index,
    face: FaceDep,
    text: Annotated[str, Query(description="What is looked for.")],
) -> Response:
    """A PNG of the image's size, the warmer the more alike; 422 `no_patches` with scorers that see no parts."""
    file = await face.explainer.heat(await face.service.get(generation_id), index, text)
    return Response(file.data, media_type=file.media_type, headers={"etag": file.etag})


@router.get("/presets", summary="Words worth trying")
@router.head("/presets", include_in_schema=False)
async def presets(face: FaceDep) -> PresetsOut:
    """Light, mood, framing and medium, from a file that the operator may replace."""
    return PresetsOut(
        data=[
            PresetOut(group=p.group, aspect=p.aspect.value, name=p.name, prompt=p.prompt, negative=p.negative)
            for p in face.explainer.presets.items
        ]
    )
