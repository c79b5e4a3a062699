"""The service's interface to an engine: submission, one-off device calls, updates.

Owns the `Engine` protocol and its value types. `app.engine.local` implements it with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import Candidate, GenerationSpec, Notice, RefereeOpinion, Score, StopReason, Timings, Work
from app.engine.cost_model import CostModel
from app.engine.ranking.scoring import Query
from app.errors import FrontrunnerError
from models.protocols import Calibration, Embeddings, GeneratorInfo, Images, ScorerInfo, ScoringInfo, TextEmbedding
from models.protocols.image_inputs import ImageInputs
from models.protocols.narrow import CallCounts
from models.protocols.upscaling import UpscalerInfo


@dataclass(frozen=True, slots=True)
class Started:
    """The generation left the queue."""

    queue_ms: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """Every live candidate has completed `step` of `steps`.

    `progress` is the completed share of the generation's work, in [0, 1].
    """

    step: int
    steps: int
    live: int
    progress: float


@dataclass(frozen=True, slots=True, eq=False)
class Previewed:
    """The x0 estimate of a candidate after `step`.

    `image` is uint8 (H, W, 3), `embedding` float32 (D,). `guidance_gap` is the guidance gap of that step.
    """

    index: int
    step: int
    score: Score
    guidance_gap: float
    image: NDArray[np.uint8]
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pruned:
    """These candidates were dropped at checkpoint `step`, `live` remain."""

    indices: tuple[int, ...]
    step: int
    live: int
    progress: float


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A candidate was decoded in full and scored. `image` is uint8 (H, W, 3)."""

    index: int
    score: Score
    progress: float
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a generation. Arrays hold all N; pruned ones by last preview.

    embeddings: float32 (N, D), L2-normalised. latents: float16 (N, C, h, w). images: the returned ones, by index, or
    all finished ones where guards, members or a referee need them. `query` is what the scores compare with. The
    candidates are placed by the main scorer. `members` holds the embeddings of members and referee by name, NaN for
    rows that they did not judge, and `left_out` says why one did not. `agreement`, `judged` and `referee` are
    added after the engine, as in `Generation`.
    `regret` is the share of the best-of-N gain that pruning would have lost; only shadow generations have it.
    """

    candidates: tuple[Candidate, ...]
    margin: float | None
    low_confidence: bool
    notices: tuple[Notice, ...]
    timings: Timings
    work: Work
    embeddings: Embeddings
    latents: NDArray[np.float16]
    images: Mapping[int, NDArray[np.uint8]]
    query: Query
    stopped: StopReason | None = None
    regret: float | None = None
    members: Mapping[str, Embeddings] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    agreement: float | None = None
    judged: int | None = None
    referee: RefereeOpinion | None = None
    margin_error: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Succeeded:
    """The last update of a successful generation."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """The last update of a failed generation."""

    error: FrontrunnerError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The last update of a cancelled generation; its rows are dropped."""


Update: TypeAlias = Started | Stepped | Previewed | Pruned | Finished | Succeeded | Failed | Cancelled

UpdateSink: TypeAlias = Callable[[Sequence[Update]], None]
"""Receives the updates of one tick in order, on the event loop; must not block."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of the engine; seconds are device seconds since the start.

    `held` counts candidates of generations that have not ended; admission limits it to `capacity`.
    `queued` counts those of generations that have not started, `running` those that are live on the device.
    `seconds_per_candidate` is for the generator's default number of steps. `part` is the current part of the start-up,
    such as `timing a decode`, or `ready`. `steering_refusal` is why the models cannot be steered, as far as is known.
    `weight_bytes` are those of all loaded models, measured when they were loaded; 0 if unknown. `workers` are the
    devices that share each generation, `workers_ready` those of them that are loaded. `remote_calls` are those of a
    remote generator.
    """

    ready: bool
    dead: bool
    draining: bool
    part: str
    held: int
    queued: int
    running: int
    capacity: int
    rows_stepped: int
    denoiser_calls: int
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    seconds_per_candidate: float = 0.0
    steering_refusal: str | None = None
    weight_bytes: int = 0
    workers: int = 1
    workers_ready: int = 0
    remote_calls: CallCounts = field(default_factory=CallCounts)


Role: TypeAlias = Literal["main", "member", "referee"]
"""What a scorer is for.

`main` races and ranks, a `member` ranks on request, the `referee` never ranks.
"""


@dataclass(frozen=True, slots=True)
class PanelScorer:
    """A loaded scorer, and its role."""

    info: ScorerInfo | ScoringInfo
    role: Role

    @property
    def embeds(self) -> bool:
        """Whether it has embeddings, so that it ranks again by any text.

        Any other one only scores.
        """
        return isinstance(self.info, ScorerInfo)


class Engine(Protocol):
    """A device with its models.

    Call the methods on the event loop's thread; they return immediately or are awaited.
    """

    @property
    def generator(self) -> GeneratorInfo:
        """The loaded generator. Raises Loading."""
        ...

    @property
    def scorer(self) -> ScorerInfo:
        """The loaded scorer. Raises Loading."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """How well previews predict scores with these models; None where not measured."""
        ...

    @property
    def costs(self) -> CostModel:
        """Seconds of guided rows of the default size, measured on load. Raises Loading."""
        ...

    def check_capacity(self, n_candidates: int) -> None:
        """Raise what `submit` would raise now for `n_candidates`.

        Raises Overloaded, Draining, Loading or EngineDead.
        """
        ...

    def submit(
        self,
        spec: GenerationSpec,
        sink: UpdateSink,
        *,
        exclusive: bool = False,
        inputs: ImageInputs | None = None,
    ) -> None:
        """Add a generation; `sink` gets updates up to Succeeded, Failed or Cancelled.

        `inputs` are the images of a spec that is `masked`.
        With `exclusive` it starts when no other generation runs, and no other starts before it has ended.
        Raises Overloaded, Draining, Loading or EngineDead; then `sink` is never called.
        """
        ...

    def cancel(self, generation_id: str) -> None:
        """Drop the rows of a generation at the next tick. Ignores unknown or ended ids."""
        ...

    @property
    def panel(self) -> tuple[PanelScorer, ...]:
        """The loaded scorers: the main one, members, the referee. Raises Loading."""
        ...

    async def embed_texts(self, texts: Sequence[str], scorer: str | None = None) -> list[TextEmbedding]:
        """Embed texts with the main scorer, or the one of that name, between two ticks."""
        ...

    async def embed_images(self, images: Sequence[NDArray[np.uint8]], scorer: str | None = None) -> Embeddings:
        """Embed host images (H, W, 3) of any sizes, between two ticks.

        With the main scorer, or the one of that name.
        """
        ...

    async def score_images(self, images: Sequence[NDArray[np.uint8]], text: str, scorer: str) -> NDArray[np.float32]:
        """Score host images (H, W, 3) of any sizes with a scorer that only scores.

        The result is float32 (N,).

        Between two ticks; a remote scorer on another thread. Raises ScoringFailed.
        """
        ...

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Embed patches of one host image (`Embedder.embed_patches`), between two ticks."""
        ...

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """Decode stored latents to images, between two ticks."""
        ...

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """Encode images (B, H, W, 3) as latents (B, C, h, w), between two ticks."""
        ...

    @property
    def upscaler(self) -> UpscalerInfo | None:
        """The loaded upscaler; None if there is none. Raises Loading."""
        ...

    async def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """Enlarge one host image (H, W, 3) with the upscaler, between two ticks.

        Raises TooLarge if it does not fit into memory.
        """
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Count as work that a stopping engine waits for, between device calls."""
        ...

    async def prepare(self, spec: GenerationSpec) -> None:
        """Load the adapters of a spec and check its steering, between two ticks.

        Raises InvalidRequest if adapters cannot be used, and NoSteering.
        """
        ...

    def stats(self) -> EngineStats:
        """Return a snapshot; cheap, never blocks."""
        ...

    async def close(self, drain_s: float) -> None:
        """Reject new work, wait up to `drain_s`, cancel the rest, end the thread.

        What still waits for the weights of a member then fails with Draining.
        """
        ...
