"""What the service sees of an engine: submit, cancel, a few one-off device calls, and the updates that come back.

Owns the `Engine` protocol and the values that cross it. `app.engine.local` implements it with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import Candidate, GenerationSpec, Notice, Score, Stop, Timings, Work
from app.engine.cost_model import Costs
from app.errors import FrontrunnerError
from models.protocols import Calibration, Embeddings, GeneratorInfo, Images, ScorerInfo, TextEmbedding


@dataclass(frozen=True, slots=True)
class Started:
    """The generation left the queue."""

    queue_ms: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """Every live candidate has made `step` of `steps`."""

    step: int
    steps: int
    live: int


@dataclass(frozen=True, slots=True, eq=False)
class Previewed:
    """The x0 estimate of a candidate after `step`: uint8 (H, W, 3). `gap` is how far guidance pulled in that step."""

    index: int
    step: int
    score: Score
    gap: float
    image: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pruned:
    """These candidates were dropped at checkpoint `step`."""

    indices: tuple[int, ...]
    step: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A candidate was decoded in full and scored."""

    index: int
    score: Score


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All that is left of a generation. Arrays hold all N by index; pruned ones by their last preview.

    embeddings: float32 (N, D), L2-normalised. latents: float16 (N, C, h, w). images: the returned ones, by index.
    `regret` is the share of the best-of-N gain that pruning would have lost, told by generations in shadow.
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
    stopped: Stop | None = None
    regret: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Succeeded:
    """The last update of a generation that went well."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """The last update of a generation that did not."""

    error: FrontrunnerError


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The last update of a generation that was cancelled; its rows are gone."""


Update: TypeAlias = Started | Stepped | Previewed | Pruned | Finished | Succeeded | Failed | Cancelled

Sink: TypeAlias = Callable[[Sequence[Update]], None]
"""Takes the updates of one tick in order, on the event loop's thread; must not block."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine; seconds are device seconds since the start.

    `held` counts the candidates of all generations that have not ended, which admission bounds by `capacity`;
    `queued` those of generations that have not started, `running` those that are live on the device.
    `seconds_per_candidate` is for the generator's default number of steps. `part` is that of the start-up under way,
    such as `timing a decode`; `ready` once it is over.
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


class Engine(Protocol):
    """A device with its models. Methods are called on the event loop's thread and return at once or are awaited."""

    @property
    def generator(self) -> GeneratorInfo:
        """The generator that is loaded. Raises Loading before there is one."""
        ...

    @property
    def scorer(self) -> ScorerInfo:
        """The scorer that is loaded. Raises Loading before there is one."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """How well previews foretell scores with these models; None where nobody measured it."""
        ...

    @property
    def costs(self) -> Costs:
        """Seconds of guided rows of the default size, measured when the models were loaded. Raises Loading."""
        ...

    def check(self, n_candidates: int) -> None:
        """Raise what `submit` of so many candidates would raise now: Overloaded, Draining, Loading or EngineDead."""
        ...

    def submit(self, spec: GenerationSpec, sink: Sink, *, alone: bool = False) -> None:
        """Take a generation; `sink` gets its updates, ending with Succeeded, Failed or Cancelled.

        One that is to run `alone` starts when nothing else runs, and nothing else starts before it has ended.
        Raises Overloaded, Draining, Loading or EngineDead, and then `sink` is never called.
        """
        ...

    def cancel(self, generation_id: str) -> None:
        """Drop its rows at the next tick; unknown or ended ones are ignored."""
        ...

    async def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Texts in the scorer's space, between two ticks."""
        ...

    async def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Embeddings:
        """Host images (H, W, 3) of any sizes in the scorer's space, between two ticks."""
        ...

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Parts of one host image as `Scorer.embed_patches` gives them, between two ticks."""
        ...

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """Stored latents as images, between two ticks."""
        ...

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """Pictures (B, H, W, 3) of one size as latents (B, C, h, w), between two ticks."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot; cheap, never blocks."""
        ...

    async def close(self, drain_s: float) -> None:
        """Take nothing new, wait at most `drain_s` for what runs, cancel the rest, end the thread."""
        ...
