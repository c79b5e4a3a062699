"""Response types of POST /v1/rank, converted from the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from app.api.schemas.base import ResponseModel
from app.api.schemas.flags import FlagsOutput, flag_fields
from app.api.schemas.ranking.outputs import RankingOutput, ScoreOutput, ranking_output, score_fields
from app.api.schemas.responses import WarningOutput, warning_outputs
from app.domain import Ranking
from app.errors import FrontrunnerError
from app.service import RankedImage, RankResult, understood


class RankedImageOutput(ScoreOutput, FlagsOutput):
    """A ranked upload.

    `index` is its position in the request, `duplicate_of` that of a better near-duplicate. `probability` is that the
    image shows the prompt, by images of the loaded generator; null if unknown.
    """

    rank: int
    index: int
    duplicate_of: int | None
    softmax: float | None
    z_score: float | None
    probability: float | None


class VetoedOutput(FlagsOutput):
    """An image that the veto excludes: its index in the request, and its flags."""

    index: int


class SkippedOutput(ResponseModel):
    """An image that was omitted: its index in the request, and the error."""

    index: int
    code: str
    message: str


class RankResponse(ResponseModel):
    """Ranked uploads, best first.

    `understood` and `prompt_language` are as in a generation. With `on_error: "skip"`, `skipped` lists the images that
    cannot be decoded. `vetoed` lists those with a flag in `ranking.veto`.
    """

    object: Literal["rank"] = "rank"
    scorer: str
    prompt: str
    prompt_language: str | None
    understood: str | None
    ranking: RankingOutput
    data: list[RankedImageOutput]
    skipped: list[SkippedOutput]
    vetoed: list[VetoedOutput]
    margin: float | None
    margin_error: float | None
    low_confidence: bool
    agreement: float | None
    warnings: list[WarningOutput]

    @classmethod
    def from_domain(cls, result: RankResult, skipped: Mapping[int, FrontrunnerError]) -> RankResponse:
        """Convert from the domain.

        `skipped` maps indices of the request to errors; `result` counts only the other images.
        """
        kept = [i for i in range(result.count + len(skipped)) if i not in skipped]
        language, words = understood(result.warnings, result.prompt, result.ranking.prompt or "")
        return cls(
            scorer=result.scorer,
            prompt=result.prompt,
            prompt_language=language,
            understood=words,
            ranking=ranking_output(result.prompt, result.ranking, result.warnings),
            data=[_ranked_image_output(image, result.scorer, result.ranking, kept) for image in result.images],
            skipped=[SkippedOutput(index=i, code=e.code, message=e.detail) for i, e in skipped.items()],
            vetoed=[VetoedOutput(index=kept[i], **flag_fields(flags)) for i, flags in result.vetoed.items()],
            margin=result.margin,
            margin_error=result.margin_error,
            low_confidence=result.low_confidence,
            agreement=result.agreement,
            warnings=warning_outputs(result.warnings),
        )


def _ranked_image_output(image: RankedImage, scorer: str, ranking: Ranking, places: Sequence[int]) -> RankedImageOutput:
    score = score_fields(image.score, scorer, ranking.negatives, ranking.references)
    return RankedImageOutput(
        rank=image.rank,
        index=places[image.index],
        duplicate_of=None if image.duplicate_of is None else places[image.duplicate_of],
        **score,
        **flag_fields(image.flags),
        softmax=image.softmax,
        z_score=image.z_score,
        probability=image.probability,
    )
