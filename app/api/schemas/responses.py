"""What callers get from the native routes, made from the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.api.schemas.requests import ImageFormat
from app.domain import Candidate, Generation, GenerationSpec, Negative, Notice, Ranking, Reference, Score
from app.service import QueuePlace, RankedImage, RankResult


class Answer(BaseModel):
    """Base of what callers get."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class NegativeOut(Answer):
    """A negative and how much an image looks like it."""

    text: str
    weight: float
    similarity: float


class ReferenceOut(Answer):
    """A reference and how much an image looks like it; `generation` is null for an upload."""

    generation: str | None
    index: int | None
    weight: float
    similarity: float


class ScoreOut(Answer):
    """A score and all it is made of. `prompt_similarity` is the prompt's alone, `similarity` that of the liked mix."""

    score: float
    similarity: float
    penalty: float
    taste: float
    prompt_similarity: float
    negatives: list[NegativeOut]
    references: list[ReferenceOut]


class ImageOut(ScoreOut):
    """A returned image. `seed` makes it again alone; `duplicate_of` is a better one that is nearly the same.

    `score_is_preview` marks one that was pruned and came back in a re-ranking: its image is its last preview.
    """

    rank: int
    index: int
    seed: int
    score_is_preview: bool
    duplicate_of: int | None
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
    taste: float | None
    pruned_at_step: int | None
    score_is_preview: bool
    duplicate_of: int | None


class NegativeAsked(Answer):
    """A negative."""

    text: str
    weight: float


class ReferenceAsked(Answer):
    """A reference; `generation` is null for an upload, of which only its embedding is kept."""

    generation: str | None
    index: int | None
    weight: float


class TasteAsked(Answer):
    """A taste; it adds at most `bound` to a score, or takes as much away."""

    profile: str
    weight: float
    bound: float


class RankingOut(Answer):
    """How candidates were compared: with `prompt`, which a re-ranking may have changed, and all the rest."""

    prompt: str
    negative_weight: float
    negatives: list[NegativeAsked]
    diversity: float
    min_score: float | None
    references: list[ReferenceAsked]
    taste: TasteAsked | None


class ParentOut(Answer):
    """What a generation was made from; `generation` and `index` are null for an upload that was refined."""

    kind: Literal["rerank", "refine"]
    generation: str | None
    index: int | None


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
    parent: ParentOut | None
    strength: float | None
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
            ranking=_ranking(spec.prompt, spec.ranking),
            checkpoints=[{"at": c.at, "keep": c.keep} for c in spec.checkpoints],
            deterministic=spec.deterministic,
            output_format=generation.output_format,
            parent=ParentOut.model_validate(spec.parent, from_attributes=True) if spec.parent else None,
            strength=spec.start.strength if spec.start else None,
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


class RankedOut(ScoreOut):
    """An uploaded image; `index` is its place in the upload, `duplicate_of` that of a better one nearly the same."""

    rank: int
    index: int
    duplicate_of: int | None
    softmax: float | None
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
            ranking=_ranking(result.prompt, result.ranking),
            data=[_ranked(image, result.ranking) for image in result.images],
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


def _ranking(prompt: str, ranking: Ranking) -> RankingOut:
    taste = ranking.taste
    return RankingOut(
        prompt=prompt if ranking.prompt is None else ranking.prompt,
        negative_weight=ranking.negative_weight,
        negatives=[NegativeAsked(text=n.text, weight=n.weight) for n in ranking.negatives],
        diversity=ranking.diversity,
        min_score=ranking.min_score,
        references=[
            ReferenceAsked(generation=r.generation, index=r.index, weight=r.weight) for r in ranking.references
        ],
        taste=TasteAsked(profile=taste.profile, weight=taste.weight, bound=taste.bound) if taste else None,
    )


def _image(spec: GenerationSpec, candidate: Candidate, score: Score, files: Mapping[int, str] | None) -> ImageOut:
    return ImageOut(
        rank=candidate.rank or 0,
        index=candidate.index,
        seed=candidate.seed,
        score_is_preview=candidate.score_is_preview,
        duplicate_of=candidate.duplicate_of,
        **_cosines(score, spec.ranking.negatives, spec.ranking.references),
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
        taste=score.taste if score else None,
        duplicate_of=candidate.duplicate_of,
        pruned_at_step=candidate.pruned_at_step,
        score_is_preview=candidate.score_is_preview,
    )


def _ranked(image: RankedImage, ranking: Ranking) -> RankedOut:
    cosines = _cosines(image.score, ranking.negatives, ranking.references)
    return RankedOut(
        rank=image.rank,
        index=image.index,
        duplicate_of=image.duplicate_of,
        **cosines,
        softmax=image.softmax,
        z_score=image.z_score,
    )


def _cosines(score: Score, negatives: Sequence[Negative], references: Sequence[Reference]) -> dict[str, Any]:
    return {
        "score": score.score,
        "similarity": score.similarity,
        "penalty": score.penalty,
        "taste": score.taste,
        "prompt_similarity": score.text,
        "negatives": [
            NegativeOut(text=n.text, weight=n.weight, similarity=s)
            for n, s in zip(negatives, score.negatives, strict=True)
        ],
        "references": [
            ReferenceOut(generation=r.generation, index=r.index, weight=r.weight, similarity=s)
            for r, s in zip(references, score.references, strict=True)
        ],
    }
