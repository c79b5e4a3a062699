"""Generations: what determines them, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from app.domain.ranking import Flag, Ranking, Score
from app.domain.safety import Safety, SafetyVerdict
from models.loras import Lora
from models.prompt_weights import without_marks
from models.protocols import steps_left
from models.protocols.steering import SteeringSettings

SEED_LIMIT = 2**64
"""Seeds live in [0, SEED_LIMIT)."""

SHORT_SEED_LIMIT = 2**32
"""Seeds that the server draws are smaller: every JSON reader keeps their digits."""


class Status(StrEnum):
    """The status of a generation; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the status can no longer change."""
        return self in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}


class Provenance(StrEnum):
    """What image files say about how they were made."""

    NONE = "none"
    METADATA = "metadata"
    C2PA = "c2pa"


class StopReason(StrEnum):
    """Why a generation in waves stopped: the maximum, or a small expected gain."""

    CAP = "cap"
    GAIN = "gain"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """After step `at`, previews are scored and the best `keep` go on (None: all).

    Steps count from 1, the first step that a candidate makes, even with a start image.
    """

    at: int
    keep: int | None = None


class ParentKind(StrEnum):
    """The operation that derived a generation from another one."""

    RERANK = "rerank"
    REFINE = "refine"


@dataclass(frozen=True, slots=True)
class Parent:
    """The origin of a generation. `generation` and `index` are None for an upload."""

    kind: ParentKind
    generation: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class InitImage:
    """A start image: latents float16 of `shape` (C, h, w), little-endian, in base64.

    `strength` 0 keeps the image, 1 samples from noise. Values between sample that share of the noise schedule's time.
    """

    strength: float
    shape: tuple[int, ...]
    latents: str

    def steps_made(self, sampler: str, steps: int) -> int:
        """Return how many of `steps` diffusers makes, but at least 1 if `strength` > 0."""
        made = int(steps * steps_left(sampler, self.strength))
        return max(1, min(made, steps)) if self.strength > 0 else 0


@dataclass(frozen=True, slots=True)
class ControlUse:
    """An image that the composition follows: its kind, and its weight from 0 to 2."""

    kind: str
    weight: float


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """Everything that determines a generation's result, with all defaults filled in.

    `negative_prompt` "" is none. It steers sampling; `ranking.negatives` contains it if the score uses it.
    `seed` is that of candidate 0, see `candidate_seed`.
    `wave` None makes all `n_candidates` at once; otherwise waves of this size follow until the expected gain is small.
    `shadow` only records which candidates the checkpoints would prune, to measure the cost of pruning.
    `start` None samples from noise; `masked`: only a part of it is redrawn. The mask and the images of `controls` are
    in `ImageInputs`. `loras` are the adapters of denoiser and text encoders. `owner` is used for fair scheduling
    between callers only. `weighted` prompts have marks that the generator applies as weights.
    `wordings` are the texts that candidates are sampled from, see `wording_index`; empty: all from `prompt`. Either way
    `ranking_prompt` ranks them. `guards` inspect the images. With `steering`, rows follow the gradient of their score.
    `spread`: the wordings are the prompt in each style of the generator. `safety` is what a classifier's flags do.
    """

    id: str
    prompt: str
    negative_prompt: str
    n_candidates: int
    n: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int
    ranking: Ranking = Ranking()
    checkpoints: tuple[Checkpoint, ...] = ()
    wave: int | None = None
    shadow: bool = False
    deterministic: bool = False
    owner: str = ""
    parent: Parent | None = None
    start: InitImage | None = None
    masked: bool = False
    controls: tuple[ControlUse, ...] = ()
    loras: tuple[Lora, ...] = ()
    weighted: bool = False
    wordings: tuple[str, ...] = ()
    spread: bool = False
    guards: tuple[str, ...] = ()
    steering: SteeringSettings | None = None
    safety: Safety = Safety.OFF

    @property
    def sampling_prompts(self) -> tuple[str, ...]:
        """The texts that candidates are sampled from: the wordings, or the prompt alone."""
        return self.wordings or (self.prompt,)

    def wording_index(self, index: int) -> int:
        """Which of `sampling_prompts` candidate `index` is sampled from.

        It depends on the candidate's seed alone, so that one candidate can be made again. Consecutive seeds take the
        wordings in turn, which spreads them evenly.
        """
        return self.candidate_seed(index) % len(self.wordings) if self.wordings else 0

    def sampling_prompt(self, index: int) -> str:
        """The text that candidate `index` is sampled from."""
        return self.sampling_prompts[self.wording_index(index)]

    @property
    def has_inputs(self) -> bool:
        """Whether it has images that steer sampling."""
        return self.masked or bool(self.controls)

    @property
    def ranking_prompt(self) -> str:
        """The text to compare candidates with: without marks where they are weights."""
        if self.ranking.prompt is not None:
            return self.ranking.prompt
        return without_marks(self.prompt) if self.weighted else self.prompt

    @property
    def ranking_negative_prompt(self) -> str:
        """The negative prompt as it is in `ranking.negatives`."""
        return without_marks(self.negative_prompt) if self.weighted else self.negative_prompt

    @property
    def steps_made(self) -> int:
        """Steps of an unpruned candidate: the last ones of the schedule."""
        return self.steps if self.start is None else self.start.steps_made(self.sampler, self.steps)

    @property
    def steered_steps(self) -> tuple[int, ...]:
        """The steps, from 1 as in `checkpoints`, after which rows are steered."""
        return () if self.steering is None else self.steering.steps(self.sampler, self.steps, self.steps_made)

    def candidate_seed(self, index: int) -> int:
        """Return the candidate's seed; a request for one candidate makes the same image.

        Seeds below 2^32 wrap there, larger ones at 2^64.
        """
        return (self.seed + index) % (SHORT_SEED_LIMIT if self.seed < SHORT_SEED_LIMIT else SEED_LIMIT)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate's result. `rank` 1 is best, None is not returned.

    `score_is_preview` marks a pruned one. `softmax` is the share among finished candidates, `z_score` the standard
    deviations from the scorer's null distribution, None if unknown. `duplicate_of` is the best of its near-duplicates,
    None for the best itself and without duplicates. `flags` are what guards found in a finished image. `failure` is why
    a remote generator made no image of it; such a candidate has no score and is not charged. `safety` is what a
    classifier found; None if it did not look. Of a pruned candidate it saw a preview. `probability` is that the image
    shows the text, see `MatchCalibration`; None if unknown.
    """

    index: int
    seed: int
    score: Score | None = None
    rank: int | None = None
    pruned_at_step: int | None = None
    score_is_preview: bool = False
    softmax: float | None = None
    z_score: float | None = None
    duplicate_of: int | None = None
    flags: tuple[Flag, ...] = ()
    failure: str | None = None
    safety: SafetyVerdict | None = None
    probability: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has a finished image: it was neither pruned nor lost."""
        return self.pruned_at_step is None and self.failure is None

    def is_vetoed(self, ranking: Ranking) -> bool:
        """Whether it has a flag that the ranking vetoes."""
        return any(flag.guard in ranking.veto for flag in self.flags)

    def is_withheld(self, safety: Safety) -> bool:
        """Whether this mode withholds it."""
        return safety is Safety.VETO and self.safety is not None and self.safety.flagged


@dataclass(frozen=True, slots=True)
class RefereeOpinion:
    """What a scorer that does not rank says of the winner.

    Its score of the winner, and the median of its scores of the finalists that it judged.
    """

    name: str
    winner: float
    median: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in milliseconds; a shared device call counts in full for each."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    denoise_ms: float = 0.0
    preview_ms: float = 0.0
    finish_ms: float = 0.0
    guard_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """Work done. `rows_unpruned` counts the steps of N candidates without pruning.

    `images_read` counts the images in which a guard read text, `rows_steered` the moves along a gradient.
    """

    rows_stepped: int = 0
    rows_unpruned: int = 0
    previews: int = 0
    decodes: int = 0
    images_read: int = 0
    rows_steered: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running generation is: the completed `share` of its work, in [0, 1].

    `step` is completed by all candidates that are `live` on the device; None if unknown.
    """

    share: float = 0.0
    step: int | None = None
    live: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning about a successful result: an entry of `warnings` on the wire."""

    code: str
    detail: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation failed, safe to show: a code of `app.errors` and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """The URL to notify, and of which ends (`succeeded`, `failed`, `cancelled`)."""

    url: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """The current state of a generation.

    `candidates` by index; they and the other results are set on success. `stopped` says why no further wave was made.
    `attempts` counts how often a device started it. An `attended` one is cancelled when no client follows its stream.
    A revision is "" if unknown. Image files have `output_size` (width, height); None: the sampled size. `progress` is
    current in the process that runs it; it starts again when another process takes over. `batch` is the id of the
    batch of which it is entry `batch_index`. `job` is the kind of the request, if it came by the web UI's API.
    `agreement` is that of an ensemble's members, see `app.engine.ranking.ensemble`; `judged` is how many candidates its
    scorers without embeddings saw.
    """

    spec: GenerationSpec
    status: Status
    created: float
    model: str
    scorer: str
    output_format: str = "png"
    started: float | None = None
    finished: float | None = None
    candidates: tuple[Candidate, ...] = ()
    margin: float | None = None
    low_confidence: bool = False
    stopped: StopReason | None = None
    warnings: tuple[Notice, ...] = ()
    timings: Timings = Timings()
    work: Work = Work()
    failure: Failure | None = None
    scorer_revision: str = ""
    attempts: int = 0
    webhook: Webhook | None = None
    attended: bool = False
    model_revision: str = ""
    output_size: tuple[int, int] | None = None
    progress: Progress = Progress()
    batch: str | None = None
    batch_index: int = 0
    provenance: Provenance = Provenance.NONE
    job: Literal["txt2img", "img2img"] | None = None
    agreement: float | None = None
    judged: int | None = None
    referee: RefereeOpinion | None = None
    margin_error: float | None = None

    @property
    def id(self) -> str:
        """The generation's id: `gen_` and 26 characters that sort by time."""
        return self.spec.id

    @property
    def completed(self) -> float:
        """The completed share of the work, in [0, 1]; 1 on success."""
        return 1.0 if self.status is Status.SUCCEEDED else self.progress.share

    @property
    def delivered(self) -> int:
        """Candidates charged to a quota: those of a result, finished or pruned, not lost."""
        if self.status is not Status.SUCCEEDED:
            return 0
        return sum(candidate.failure is None for candidate in self.candidates)

    @property
    def best(self) -> tuple[Candidate, ...]:
        """The returned candidates, best first."""
        ranked = [c for c in self.candidates if c.rank is not None]
        return tuple(sorted(ranked, key=lambda c: c.rank or 0))
