"""The use cases: submit, get, wait, watch, image, forget, rank. The only caller of engine and stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain import Checkpoint, Event, Generation, Notice, Ranking, Score
from app.engine.client import EngineStats
from models.contract import GeneratorInfo, ScorerInfo


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. `prompt_chars` is per text; `image_pixels` is per upload."""

    candidates: int = 64
    steps: int = 150
    guidance_scale: float = 50.0
    prompt_chars: int = 4000
    negatives: int = 16
    images: int = 64
    image_pixels: int = 40_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A generation as asked for; None means the model's or the server's own default.

    `pruning` "auto", "off" or explicit checkpoints. `partial_images` asks for that many rounds of previews.
    """

    prompt: str
    negative_prompt: str = ""
    n_candidates: int | None = None
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    seed: int | None = None
    model: str | None = None
    ranking: Ranking = Ranking()
    pruning: str | tuple[Checkpoint, ...] | None = None
    partial_images: int = 0
    deterministic: bool = False
    output_format: str = "png"
    owner: str = ""


@dataclass(frozen=True, slots=True)
class RankedImage:
    """An uploaded image in its place: `index` is its place in the upload, `rank` 1 is best."""

    index: int
    rank: int
    score: Score
    softmax: float
    z_score: float | None


@dataclass(frozen=True, slots=True)
class RankResult:
    """Uploaded images, best first, compared with one prompt."""

    scorer: str
    prompt: str
    ranking: Ranking
    images: tuple[RankedImage, ...]
    margin: float | None
    low_confidence: bool
    warnings: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded image: bytes, media type (`image/png`...) and a strong ETag (quoted)."""

    data: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Candidates ahead in the queue, and the measured guess of the seconds until the result."""

    position: int
    eta_seconds: float | None


class Service:
    """See the module. Methods raise `app.errors` only."""

    async def submit(self, draft: Draft) -> Generation:
        """Check, fill in defaults, admit, record and hand to the engine. Returns it queued.

        Raises Invalid (with a pointer), NotFound (model), Overloaded, Draining, Loading, EngineDead.
        """
        raise NotImplementedError

    async def get(self, generation_id: str) -> Generation:
        """The generation as it stands. Raises NotFound."""
        raise NotImplementedError

    def place(self, generation: Generation) -> QueuePlace:
        """Where a queued or running generation stands."""
        raise NotImplementedError

    async def wait(self, generation_id: str) -> Generation:
        """The generation once it is final. Raises NotFound when it is forgotten meanwhile."""
        raise NotImplementedError

    def watch(self, generation_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The log after line `after`, then new lines as they come, until the closing one. Raises NotFound."""
        raise NotImplementedError

    async def image(self, generation_id: str, index: int, output_format: str, size: tuple[int, int] | None = None) -> ImageFile:
        """A candidate's image; `size` (width, height) never larger than the image. Raises NotFound, NotReady, Invalid."""
        raise NotImplementedError

    async def cancel(self, generation_id: str) -> Generation:
        """Stop it if it still runs; the record stays. Raises NotFound."""
        raise NotImplementedError

    async def forget(self, generation_id: str) -> None:
        """Cancel if needed, then delete record, log and files. Raises NotFound."""
        raise NotImplementedError

    async def rank(self, prompt: str, ranking: Ranking, images: Sequence[NDArray[np.uint8]]) -> RankResult:
        """Compare images (H, W, 3) of any sizes with a prompt; no sampling. Raises Invalid, Loading, EngineDead."""
        raise NotImplementedError

    def models(self) -> tuple[GeneratorInfo, ScorerInfo]:
        """What is loaded. Raises Loading."""
        raise NotImplementedError

    def stats(self) -> EngineStats:
        """The engine's counters."""
        raise NotImplementedError

    async def ready(self) -> str | None:
        """None when requests are welcome, else one word why not: loading, dead, draining, full, store."""
        raise NotImplementedError
