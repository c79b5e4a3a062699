"""The wire types of the native routes and the way between them and the domain.

Requests are strict: a field that is unknown, of the wrong type or not finite is refused. What a server allows or a
model can do is checked by the service; here stand only the bounds that hold everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.domain import SEED_LIMIT, Candidate, Checkpoint, Generation, GenerationSpec, Negative, Notice, Ranking, Score
from app.service import Draft, QueuePlace, RankedImage, RankResult

ImageFormat: TypeAlias = Literal["png", "webp", "jpeg"]
ResponseFormat: TypeAlias = Literal["url", "b64_json"]

PRINTABLE = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"


def _without_controls(text: str) -> str:
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        raise ValueError("control characters other than tabs and line breaks are not taken")
    return text


def _with_words(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Text: TypeAlias = Annotated[str, AfterValidator(_without_controls), Field(json_schema_extra={"pattern": PRINTABLE})]
Words: TypeAlias = Annotated[Text, AfterValidator(_with_words), Field(min_length=1)]
Size: TypeAlias = Annotated[str, StringConstraints(pattern=SIZE)]
Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Float: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class Request(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what callers get."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


# requests


class NegativeIn(Request):
    """A text that candidates are marked down for."""

    text: Words
    weight: Float = Field(1.0, gt=0, le=100, description="Relative to the other negatives.")

    def to_domain(self) -> Negative:
        """As the ranking knows it."""
        return Negative(self.text, self.weight)


class RankingIn(Request):
    """How candidates are compared: score = similarity - negative_weight * penalty."""

    negative_weight: Float = Field(0.5, ge=0, le=10, description="How much the negatives count.")
    negatives: list[NegativeIn] = Field([], description="Texts to be marked down for; they do not steer sampling.")
    diversity: Float = Field(0.0, ge=0, le=1, description="Above 0 the returned images are also kept apart.")
    min_score: Float | None = Field(None, ge=-20, le=1, description="Candidates below it are not returned.")

    def to_domain(self, negative_prompt: str = "") -> Ranking:
        """As the engine knows it; a `negative_prompt` that nothing is sampled with becomes the first negative."""
        first = (Negative(negative_prompt),) if negative_prompt else ()
        return Ranking(
            negative_weight=self.negative_weight,
            negatives=first + tuple(n.to_domain() for n in self.negatives),
            diversity=self.diversity,
            min_score=self.min_score,
        )


class CheckpointIn(Request):
    """After step `at` the best `keep` candidates go on."""

    at: int = Field(ge=1, le=1000)
    keep: int | None = Field(None, ge=1, le=1024)


Pruning: TypeAlias = Literal["auto", "off"] | Annotated[list[CheckpointIn], Field(max_length=16)]


class Sampling(Request):
    """What every way of asking for a generation has in common; null is the model's or the server's default."""

    prompt: Words = Field(description="What the images should show.")
    negative_prompt: Text | None = Field(None, description="Steers sampling away and counts as a negative of weight 1.")
    n_candidates: int | None = Field(None, ge=1, le=1024, description="Images that are sampled and compared.")
    steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.")
    guidance_scale: Float | None = Field(None, ge=0, le=100, description="1 or less samples without guidance.")
    sampler: Name | None = Field(None, description="One of the model's samplers, see GET /v1/models.")
    seed: int | None = Field(None, ge=0, lt=SEED_LIMIT, description="Of candidate 0; candidate i has seed + i.")
    model: Name | None = Field(None, description="The generator that is loaded, see GET /v1/models.")
    ranking: RankingIn = Field(default_factory=RankingIn)
    pruning: Pruning | None = Field(None, description="Whether weak candidates are dropped on the way, or where.")
    deterministic: bool = Field(False, description="One fixed batch size, so that pixels do not depend on company.")

    def draft(self, *, n: int, size: str | None, previews: int, output_format: ImageFormat) -> Draft:
        """As the service takes it."""
        width, height = parse_size(size) if size else (None, None)
        return Draft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            n_candidates=self.n_candidates,
            n=n,
            width=width,
            height=height,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            seed=self.seed,
            model=self.model,
            ranking=self.ranking.to_domain(),
            pruning=_pruning(self.pruning),
            partial_images=previews,
            deterministic=self.deterministic,
            output_format=output_format,
        )


class GenerationRequest(Sampling):
    """A generation: sample `n_candidates`, rank them, return the best `n`."""

    n: int = Field(1, ge=1, le=1024, description="Images that are returned, best first.")
    size: Size | None = Field(None, description="WIDTHxHEIGHT in pixels.")
    previews: int = Field(0, ge=0, le=10, description="Rounds of preview images in the event stream.")
    response_format: ResponseFormat = Field("url", description="Whether `data` holds links or the images themselves.")
    output_format: ImageFormat = Field("png", description="File format of the images.")

    def to_domain(self) -> Draft:
        """As the service takes it."""
        return self.draft(n=self.n, size=self.size, previews=self.previews, output_format=self.output_format)


class RankRequest(Request):
    """Images to compare with a prompt."""

    prompt: Words = Field(description="What the images are compared with.")
    negative_prompt: Text | None = Field(None, description="Counts as a negative of weight 1.")
    ranking: RankingIn = Field(default_factory=RankingIn)
    images: list[str] = Field(min_length=1, max_length=1024, description="data: URIs with base64, of images.")


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a text that matches `SIZE`."""
    width, _, height = size.partition("x")
    return int(width), int(height)


def _pruning(asked: Pruning | None) -> str | tuple[Checkpoint, ...] | None:
    return tuple(Checkpoint(c.at, c.keep) for c in asked) if isinstance(asked, list) else asked


# answers


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
    """A generation as it stands, with the parameters that were really used."""

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
            output_format=generation.output_format,  # type: ignore[arg-type]
            queue_position=place.position if place else None,
            eta_seconds=place.eta_seconds if place else None,
            data=[_image(spec, c, c.score, files) for c in generation.best if c.score is not None],
            candidates=[_candidate(c) for c in generation.candidates],
            margin=generation.margin,
            low_confidence=generation.low_confidence,
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
