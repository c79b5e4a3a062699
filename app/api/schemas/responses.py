"""Response types of the native routes, converted from the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict

from app.api.schemas.base import ResponseModel
from app.api.schemas.flags import FlagsOutput, SafetyInput, SafetyOutput, flag_fields, safety_output
from app.api.schemas.provenance import ProvenanceInput
from app.api.schemas.ranking.outputs import (
    RankingOutput,
    RefereeOutput,
    ScoreOutput,
    own_scores,
    ranking_output,
    score_fields,
)
from app.api.schemas.requests import ImageFormat
from app.api.schemas.steering import SteeringOutput, steering_output
from app.domain import Candidate, Generation, GenerationSpec, Notice, Score, Status
from app.service import QueuePosition, file_size, image_path, understood
from models.protocols.styles import style_of


class ImageOutput(ScoreOutput, FlagsOutput):
    """A returned image.

    `seed` alone reproduces it. `wording` is the text that it was sampled from; null if that is the generation's prompt.
    `style` is the style in the wording, if the server added one to the prompt; null otherwise. With another wording,
    that text as prompt and `seed` make the same image. `duplicate_of` is the index of a better near-duplicate.
    `score_is_preview` marks a pruned candidate that a re-ranking returned: its image is its last preview. `url` is a
    path. On servers with keys it is signed, and shows the image without a key until it expires. `safety` is null if no
    classifier looked at the image. `probability` is that the image shows the prompt of the ranking, where half of all
    pairs do; null if it was not calibrated.
    """

    rank: int
    index: int
    seed: int
    wording: str | None
    style: str | None
    score_is_preview: bool
    duplicate_of: int | None
    softmax: float | None
    z_score: float | None
    probability: float | None
    safety: SafetyOutput | None
    url: str | None
    b64_json: str | None


class ControlOutput(ResponseModel):
    """A control image that was used."""

    kind: str
    weight: float


class CandidateOutput(FlagsOutput):
    """One of the N candidates; a pruned one has the score of its last preview.

    `wording` is the text that it was sampled from; null if that is the generation's prompt. `style` is the style in the
    wording, if the server added one to the prompt; null otherwise. A `vetoed` one has a flag of `ranking.veto`, so it
    has no rank. `failure` is why a remote generator made no image of it; null for all others.
    """

    index: int
    seed: int
    wording: str | None
    style: str | None
    rank: int | None
    score: float | None
    scores: dict[str, float]
    similarity: float | None
    penalty: float | None
    taste: float | None
    pruned_at_step: int | None
    score_is_preview: bool
    duplicate_of: int | None
    vetoed: bool
    probability: float | None
    failure: str | None
    safety: SafetyOutput | None


class ParentOutput(ResponseModel):
    """The source of a re-ranked or refined generation.

    `generation` and `index` are null for a refined upload.
    """

    kind: Literal["rerank", "refine"]
    generation: str | None
    index: int | None


class WarningOutput(ResponseModel):
    """A notice about a successful response; further members depend on `code`."""

    model_config = ConfigDict(extra="allow")
    code: str
    detail: str


class TimingsOutput(ResponseModel):
    """Time per phase in milliseconds."""

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    preview_ms: float
    finish_ms: float
    guard_ms: float
    total_ms: float


class WorkOutput(ResponseModel):
    """Number of computations."""

    rows_stepped: int
    rows_unpruned: int
    previews: int
    decodes: int
    images_read: int
    rows_steered: int


class FailureOutput(ResponseModel):
    """Why a generation failed."""

    code: str
    message: str


class LoraOutput(ResponseModel):
    """A LoRA adapter of a generation."""

    name: str
    weight: float


class GenerationResponse(ResponseModel):
    """The current state of a generation, with the parameters that were used.

    `size` is the sampled size, `output_size` that of the image files. `stopped`: why sampling in waves ended: `cap` is
    the maximum, `gain` means another wave would gain little. `progress` is the completed share of the work, from 0 to
    1. Some models only know English captions: they read other texts as such. `understood` is the caption that stands
    for the prompt, and `prompt_language` is the prompt's language (BCP 47, or `emoji`). Both are null if it was read as
    it is. `step` is completed by all `live` candidates, those that are sampled and not pruned, while it runs.
    `judged`: how many candidates the scorers of an ensemble without embeddings saw. `margin_error` is the standard
    error of `margin`.
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
    prompt_language: str | None
    understood: str | None
    negative_prompt: str
    seed: int
    n_candidates: int
    n: int
    size: str
    output_size: str
    steps: int
    guidance_scale: float
    sampler: str
    steering: SteeringOutput | None
    loras: list[LoraOutput]
    ranking: RankingOutput
    checkpoints: list[dict[str, int | None]]
    deterministic: bool
    output_format: ImageFormat
    provenance: ProvenanceInput
    safety: SafetyInput
    parent: ParentOutput | None
    strength: float | None
    masked: bool
    control: list[ControlOutput]
    queue_position: int | None
    eta_seconds: float | None
    progress: float
    step: int | None
    live: int | None
    data: list[ImageOutput]
    candidates: list[CandidateOutput]
    margin: float | None
    margin_error: float | None
    low_confidence: bool
    agreement: float | None
    judged: int | None
    referee: RefereeOutput | None
    stopped: Literal["cap", "gain"] | None
    warnings: list[WarningOutput]
    timings: TimingsOutput
    work: WorkOutput
    error: FailureOutput | None

    @classmethod
    def from_domain(
        cls,
        generation: Generation,
        *,
        queue_position: QueuePosition | None = None,
        files: Mapping[int, str] | None = None,
    ) -> GenerationResponse:
        """Convert from the domain.

        `queue_position` is for a generation that is not final. `files` are base64 images by index, instead of links.
        """
        language, words = understood(generation.warnings, generation.spec.prompt, generation.spec.ranking_prompt)
        spec, failure, running = generation.spec, generation.failure, generation.status is Status.RUNNING
        return cls(
            id=generation.id,
            status=generation.status.value,
            created=int(generation.created),
            started=generation.started,
            finished=generation.finished,
            model=generation.model,
            scorer=generation.scorer,
            prompt=spec.prompt,
            prompt_language=language,
            understood=words,
            negative_prompt=spec.negative_prompt,
            seed=spec.seed,
            n_candidates=spec.n_candidates,
            n=spec.n,
            size=f"{spec.width}x{spec.height}",
            output_size="{}x{}".format(*file_size(generation)),
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            sampler=spec.sampler,
            steering=steering_output(spec.steering),
            loras=[LoraOutput(name=lora.name, weight=lora.weight) for lora in spec.loras],
            ranking=ranking_output(spec.ranking_prompt, spec.ranking, generation.warnings),
            checkpoints=[{"at": c.at, "keep": c.keep} for c in spec.checkpoints],
            deterministic=spec.deterministic,
            output_format=generation.output_format,
            provenance=generation.provenance.value,
            safety=spec.safety.value,
            parent=ParentOutput.model_validate(spec.parent, from_attributes=True) if spec.parent else None,
            strength=spec.start.strength if spec.start else None,
            masked=spec.masked,
            control=[ControlOutput(kind=each.kind, weight=each.weight) for each in spec.controls],
            queue_position=queue_position.position if queue_position else None,
            eta_seconds=queue_position.eta_seconds if queue_position else None,
            progress=generation.completed,
            step=generation.progress.step if running else None,
            live=generation.progress.live if running else None,
            data=[_image_output(generation, c, c.score, files) for c in generation.best if c.score is not None],
            candidates=[_candidate_output(generation, c) for c in generation.candidates],
            margin=generation.margin,
            margin_error=generation.margin_error,
            low_confidence=generation.low_confidence,
            agreement=generation.agreement,
            judged=generation.judged,
            referee=RefereeOutput.model_validate(generation.referee, from_attributes=True)
            if generation.referee
            else None,
            stopped=generation.stopped.value if generation.stopped else None,
            warnings=warning_outputs(generation.warnings),
            timings=TimingsOutput.model_validate(generation.timings, from_attributes=True),
            work=WorkOutput.model_validate(generation.work, from_attributes=True),
            error=FailureOutput(code=failure.code, message=failure.detail) if failure else None,
        )


def warning_outputs(notices: Sequence[Notice]) -> list[WarningOutput]:
    """Convert notices to warnings."""
    return [WarningOutput(code=n.code, detail=n.detail, **n.data) for n in notices]


def _image_output(
    generation: Generation, candidate: Candidate, score: Score, files: Mapping[int, str] | None
) -> ImageOutput:
    spec = generation.spec
    return ImageOutput(
        rank=candidate.rank or 0,
        index=candidate.index,
        seed=candidate.seed,
        wording=_wording(spec, candidate.index),
        style=_style(spec, candidate.index),
        score_is_preview=candidate.score_is_preview,
        duplicate_of=candidate.duplicate_of,
        **flag_fields(candidate.flags),
        **score_fields(score, generation.scorer, spec.ranking.negatives, spec.ranking.references),
        softmax=candidate.softmax,
        z_score=candidate.z_score,
        probability=candidate.probability,
        safety=safety_output(candidate.safety),
        url=None if files else image_path(spec.id, candidate.index, generation.output_format),
        b64_json=files[candidate.index] if files else None,
    )


def _style(spec: GenerationSpec, index: int) -> str | None:
    return style_of(spec.prompt, spec.sampling_prompt(index)) if spec.spread else None


def _wording(spec: GenerationSpec, index: int) -> str | None:
    text = spec.sampling_prompt(index)
    return text if text != spec.prompt else None


def _candidate_output(generation: Generation, candidate: Candidate) -> CandidateOutput:
    score, spec = candidate.score, generation.spec
    return CandidateOutput(
        index=candidate.index,
        seed=candidate.seed,
        wording=_wording(spec, candidate.index),
        style=_style(spec, candidate.index),
        rank=candidate.rank,
        score=score.score if score else None,
        scores=own_scores(score, generation.scorer) if score else {},
        similarity=score.similarity if score else None,
        penalty=score.penalty if score else None,
        taste=score.taste if score else None,
        duplicate_of=candidate.duplicate_of,
        pruned_at_step=candidate.pruned_at_step,
        score_is_preview=candidate.score_is_preview,
        vetoed=candidate.is_vetoed(spec.ranking),
        probability=candidate.probability,
        failure=candidate.failure,
        safety=safety_output(candidate.safety),
        **flag_fields(candidate.flags),
    )
