"""The product's own values: what a generation is asked to do, and what came of it.

Owns frozen types only. No wire format (see `app.api.schemas.requests`), no storage (see `app.stores`), no tensors.
Times are seconds since the epoch, durations say their unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from models.protocols import steps_left

SEED_LIMIT = 2**32
"""Seeds live in [0, SEED_LIMIT)."""


class Status(StrEnum):
    """Where a generation stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}


class Stop(StrEnum):
    """Why a generation in waves made no further one: the cap was reached, or little more was to be gained."""

    CAP = "cap"
    GAIN = "gain"


class EventKind(StrEnum):
    """The lines of a generation's log. `SUCCEEDED`, `FAILED` and `CANCELLED` close it."""

    QUEUED = "queued"
    STARTED = "started"
    STEP = "step"
    PREVIEW = "preview"
    PRUNED = "pruned"
    CANDIDATE = "candidate"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether this line closes the log."""
        return self in {EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED}


@dataclass(frozen=True, slots=True)
class Negative:
    """A text that candidates are marked down for. `weight` > 0, relative to the other negatives."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that candidates should look like (`weight` > 0) or should not (`weight` < 0).

    `vector` is its embedding by the scorer, L2-normalised. `generation` and `index` name the candidate it was, None
    for an upload, of which nothing but the embedding is kept.
    """

    weight: float
    vector: tuple[float, ...]
    generation: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Taste:
    """A profile as it was when a ranking named it: adds `bound * tanh(vector . image - offset)` to the score.

    The bound has the score's own unit and already holds the weight that was asked for.
    """

    profile: str
    weight: float
    bound: float
    offset: float
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How candidates are compared. `diversity` in [0, 1]; `min_score` leaves lower ones out of the returned.

    `prompt` None compares with the prompt they are sampled from. `negatives` holds every text that the penalty counts.
    """

    negative_weight: float = 0.5
    negatives: tuple[Negative, ...] = ()
    min_score: float | None = None
    diversity: float = 0.0
    prompt: str | None = None
    references: tuple[Reference, ...] = ()
    taste: Taste | None = None

    def with_negative_prompt(self, text: str) -> Ranking:
        """This ranking with a negative prompt as its first negative, of weight 1; an empty text adds none."""
        return replace(self, negatives=(Negative(text), *self.negatives)) if text else self

    def without_negative_prompt(self, text: str) -> Ranking:
        """This ranking without the entry that `with_negative_prompt` adds for the same text."""
        return replace(self, negatives=self.negatives[1:]) if self.negatives[:1] == (Negative(text),) else self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """After step `at` live candidates are previewed and scored, and the best `keep` go on (None: all).

    Steps count from 1, those that are made: of a generation that begins as a picture, from its first one.
    """

    at: int
    keep: int | None = None


class Kinship(StrEnum):
    """What made a generation out of another one."""

    RERANK = "rerank"
    REFINE = "refine"


@dataclass(frozen=True, slots=True)
class Parent:
    """Where a generation comes from. `generation` and `index` are None for one that was refined from an upload."""

    kind: Kinship
    generation: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A picture that candidates begin as: latents float16 of `shape` (C, h, w), little-endian, in base64.

    `strength` 0 leaves the picture as it is, 1 samples from noise; between, that share of the noise schedule's time.
    """

    strength: float
    shape: tuple[int, ...]
    latents: str

    def steps_made(self, sampler: str, steps: int) -> int:
        """Steps that are made of `steps`: by diffusers' own arithmetic, but at least one with any strength."""
        made = int(steps * steps_left(sampler, self.strength))
        return max(1, min(made, steps)) if self.strength > 0 else 0


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """Everything that decides a generation's result; made by the service with all defaults filled in.

    `negative_prompt` "" is none. It steers sampling; `ranking.negatives` holds it where the score counts it.
    `seed` is candidate 0's, see `candidate_seed`.
    `wave` None makes all `n_candidates` at once; else they come in waves of that many until another is not worth it.
    `shadow` only notes who would have been pruned at the checkpoints, to measure what pruning costs.
    `start` None samples from noise.
    `owner` shares the device fairly between callers and decides nothing else.
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
    start: Start | None = None

    @property
    def guided(self) -> bool:
        """Whether sampling uses classifier-free guidance: two denoiser entries a row instead of one."""
        return self.guidance_scale > 1.0

    @property
    def question(self) -> str:
        """The text that candidates are compared with."""
        return self.prompt if self.ranking.prompt is None else self.ranking.prompt

    @property
    def steps_made(self) -> int:
        """Steps that a candidate makes when it is not pruned: the last ones of the schedule's."""
        return self.steps if self.start is None else self.start.steps_made(self.sampler, self.steps)

    def candidate_seed(self, index: int) -> int:
        """Seed of candidate `index`: a request for one candidate with this seed makes the same image."""
        return (self.seed + index) % SEED_LIMIT


@dataclass(frozen=True, slots=True)
class Score:
    """`score = similarity - negative_weight * penalty + taste`; every cosine in [-1, 1].

    `negatives` and `references` are cosines in the ranking's order. `prompt` is the cosine with the text alone, None
    where that is the similarity itself.
    """

    score: float
    similarity: float
    penalty: float
    negatives: tuple[float, ...] = ()
    references: tuple[float, ...] = ()
    prompt: float | None = None
    taste: float = 0.0

    @property
    def text(self) -> float:
        """The cosine with the text alone."""
        return self.similarity if self.prompt is None else self.prompt


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the N as it ended. `rank` 1 is best, None for those not returned; `score_is_preview` when it was pruned.

    `softmax` is the share among the candidates that were finished, `z_score` counts standard deviations from
    the scorer's null distribution; both None where they cannot be said. `duplicate_of` is the best of the group of
    near-duplicates it belongs to, None for the best itself and for one that is like no other.
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


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, milliseconds. Shared device calls count in full for every generation in them."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    denoise_ms: float = 0.0
    preview_ms: float = 0.0
    finish_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """What was done: `rows_unpruned` is what N candidates without pruning would have stepped."""

    rows_stepped: int = 0
    rows_unpruned: int = 0
    previews: int = 0
    decodes: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the caller should know about an answer that is good all the same: one of `warnings` on the wire."""

    code: str
    detail: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation failed, fit to be shown: a code of `app.errors` and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to tell how a generation ended, and of which ends (`succeeded`, `failed`, `cancelled`)."""

    url: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation as it stands. `candidates` by index; filled, like `margin` and the rest, when it has succeeded.

    `stopped` says why no further wave was made, where candidates came in waves. `attempts` counts how often a device
    began with it: more than once when a process died over it. An `attended` one is cancelled when no client follows its
    stream. A revision is "" where none was kept.
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
    stopped: Stop | None = None
    warnings: tuple[Notice, ...] = ()
    timings: Timings = Timings()
    work: Work = Work()
    failure: Failure | None = None
    scorer_revision: str = ""
    attempts: int = 0
    webhook: Webhook | None = None
    attended: bool = False
    model_revision: str = ""

    @property
    def id(self) -> str:
        """The generation's name, `gen_` and 26 characters that sort by time."""
        return self.spec.id

    @property
    def delivered(self) -> int:
        """Candidates that a quota is charged for: those of a result, finished or pruned by the race."""
        return len(self.candidates) if self.status is Status.SUCCEEDED else 0

    @property
    def best(self) -> tuple[Candidate, ...]:
        """The returned candidates, best first."""
        ranked = [c for c in self.candidates if c.rank is not None]
        return tuple(sorted(ranked, key=lambda c: c.rank or 0))


class VoteKind(StrEnum):
    """How a vote was cast."""

    LIKE = "like"
    DISLIKE = "dislike"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote on candidate `index` of a generation, over another one if it was a preference.

    `direction` is where in the scorer's space it points: float16 (D,), little-endian.
    """

    kind: VoteKind
    generation: str
    index: int
    over: int | None
    direction: bytes

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it this vote, wherever it points."""
        return self.kind, self.generation, self.index, self.over


@dataclass(frozen=True, slots=True)
class Profile:
    """Votes cast with one scorer; `centre` is the mean of the means of their `fields`, float32 (D,), little-endian."""

    scorer: str
    revision: str
    centre: bytes
    fields: int
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a generation's log. `seq` counts from 1 without gaps; `data` is JSON."""

    seq: int
    kind: EventKind
    data: Mapping[str, Any]
    created: float
