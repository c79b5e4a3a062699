"""What callers get from the native routes, made from the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.api.schemas import ImageFormat
from app.domain import Candidate, Generation, GenerationSpec, Negative, Notice, Ranking, Score
from app.service import QueuePlace, RankedImage, RankResult


class Answer(BaseModel):
    """Base of what callers get."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class NegativeOut(Answer):
    """A negative and how much an image looks like it."""

    text: str
    weight: float
    similarity: float


class ImageOut(Answer):
    """A returned image. `seed` makes it again alone; `similarity`, `penalty` and the negatives' are cosines."""

    rank: int
    index: int
    seed: int
    score: float
    similarity: float
    penalty: float
    negatives: list[NegativeOut]
    softmax: float | None
    z_score: float | None
    url: str | None
    b64_json: str | None


class CandidateOut(Answer):
    """One of the N. A candidate that was pruned has the score of its last preview."""

    index: int
    seed: int
    rank: int | None
    score: float | None
    similarity: float | None
    penalty: float | None
    pruned_at_step: int | None
    score_is_preview: bool


class RankingOut(Answer):
    """How candidates were compared."""

    negative_weight: float
    negatives: list[dict[str, Any]]
    diversity: float
    min_score: float | None


class WarningOut(Answer):
    """Something to know about an answer that is good all the same; further members depend on `code`."""

    model_config = ConfigDict(extra="allow")
    code: str
    detail: str


class TimingsOut(Answer):
    """Where the time went, milliseconds."""

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    preview_ms: float
    finish_ms: float
    total_ms: float


class WorkOut(Answer):
    """What was computed."""

    rows_stepped: int
    rows_unpruned: int
    previews: int
    decodes: int


class FailureOut(Answer):
    """Why a generation failed."""

    code: str
    message: str


class GenerationOut(Answer):
    """A generation as it stands, with the parameters that were really used.

    `stopped` says why candidates in waves came to an end: the cap was reached, or little more was to be gained.
    """

    id: str
    object: Literal["generation"] = "generation"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    started: float | None
    finished: float | None
    model: str
    scorer: str
    prompt: str
    negative_prompt: str
    seed: int
    n_candidates: int
    n: int
    size: str
    steps: int
    guidance_scale: float
    sampler: str
    ranking: RankingOut
    checkpoints: list[dict[str, int | None]]
    deterministic: bool
    output_format: ImageFormat
    queue_position: int | None
    eta_seconds: float | None
    data: list[ImageOut]
    candidates: list[CandidateOut]
    margin: float | None
    low_confidence: bool
    stopped: Literal["cap", "gain"] | None
    warnings: list[WarningOut]
    timings: TimingsOut
    work: WorkOut
    error: FailureOut | None

    @classmethod
    def from_domain(
        cls, generation: Generation, *, place: QueuePlace | None = None, files: Mapping[int, str] | None = None
    ) -> GenerationOut:
        """`place` for one that is not final; `files` are base64 images by index, in place of links."""
        spec, failure = generation.spec, generation.failure
        return cls(
            id=generation.id,
            status=generation.status.value,
            created=int(generation.created),
            started=generation.started,
            finished=generation.finished,
            model=generation.model,
            scorer=generation.scorer,
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            seed=spec.seed,
            n_candidates=spec.n_candidates,
            n=spec.n,
            size=f"{spec.width}x{spec.height}",
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            sampler=spec.sampler,
            ranking=_ranking(spec.ranking),
            checkpoints=[{"at": c.at, "keep": c.keep} for c in spec.checkpoints],
            deterministic=spec.deterministic,
            output_format=generation.output_format,
            queue_position=place.position if place else None,
            eta_seconds=place.eta_seconds if place else None,
            data=[_image(spec, c, c.score, files) for c in generation.best if c.score is not None],
            candidates=[_candidate(c) for c in generation.candidates],
            margin=generation.margin,
            low_confidence=generation.low_confidence,
            stopped=generation.stopped.value if generation.stopped else None,
            warnings=warnings(generation.warnings),
            timings=TimingsOut.model_validate(generation.timings, from_attributes=True),
            work=WorkOut.model_validate(generation.work, from_attributes=True),
            error=FailureOut(code=failure.code, message=failure.detail) if failure else None,
        )


class RankedOut(Answer):
    """An uploaded image in its place; `index` is its place in the upload."""

    rank: int
    index: int
    score: float
    similarity: float
    penalty: float
    negatives: list[NegativeOut]
    softmax: float
    z_score: float | None


class RankOut(Answer):
    """Uploaded images, best first."""

    object: Literal["rank"] = "rank"
    scorer: str
    prompt: str
    ranking: RankingOut
    data: list[RankedOut]
    margin: float | None
    low_confidence: bool
    warnings: list[WarningOut]

    @classmethod
    def from_domain(cls, result: RankResult) -> RankOut:
        """As callers get it."""
        return cls(
            scorer=result.scorer,
            prompt=result.prompt,
            ranking=_ranking(result.ranking),
            data=[_ranked(image, result.ranking.negatives) for image in result.images],
            margin=result.margin,
            low_confidence=result.low_confidence,
            warnings=warnings(result.warnings),
        )


def image_url(generation_id: str, index: int) -> str:
    """Where a candidate's image is found, relative to the server."""
    return f"/v1/generations/{generation_id}/images/{index}"


def warnings(notices: Sequence[Notice]) -> list[WarningOut]:
    """Notices as callers get them."""
    return [WarningOut(code=n.code, detail=n.detail, **n.data) for n in notices]


def _ranking(ranking: Ranking) -> RankingOut:
    return RankingOut(
        negative_weight=ranking.negative_weight,
        negatives=[{"text": n.text, "weight": n.weight} for n in ranking.negatives],
        diversity=ranking.diversity,
        min_score=ranking.min_score,
    )


def _image(spec: GenerationSpec, candidate: Candidate, score: Score, files: Mapping[int, str] | None) -> ImageOut:
    return ImageOut(
        rank=candidate.rank or 0,
        index=candidate.index,
        seed=candidate.seed,
        **_cosines(score, spec.negatives),
        softmax=candidate.softmax,
        z_score=candidate.z_score,
        url=None if files else image_url(spec.id, candidate.index),
        b64_json=files[candidate.index] if files else None,
    )


def _candidate(candidate: Candidate) -> CandidateOut:
    score = candidate.score
    return CandidateOut(
        index=candidate.index,
        seed=candidate.seed,
        rank=candidate.rank,
        score=score.score if score else None,
        similarity=score.similarity if score else None,
        penalty=score.penalty if score else None,
        pruned_at_step=candidate.pruned_at_step,
        score_is_preview=candidate.score_is_preview,
    )


def _ranked(image: RankedImage, negatives: Sequence[Negative]) -> RankedOut:
    cosines = _cosines(image.score, negatives)
    return RankedOut(rank=image.rank, index=image.index, **cosines, softmax=image.softmax, z_score=image.z_score)


def _cosines(score: Score, negatives: Sequence[Negative]) -> dict[str, Any]:
    return {
        "score": score.score,
        "similarity": score.similarity,
        "penalty": score.penalty,
        "negatives": [
            NegativeOut(text=n.text, weight=n.weight, similarity=s)
            for n, s in zip(negatives, score.negatives, strict=True)
        ],
    }
