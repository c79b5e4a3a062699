"""Facts of models that are not loaded here, and an engine that only knows them.

A card is taken from a loaded engine. With it a request can be checked, planned and queued without the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.base.known_model import KnownModel, ModelFacts
from app.engine.cost_model import CostModel
from app.engine.protocols import EngineStats, PanelScorer, UpdateSink
from app.errors import ModelAway
from models.protocols import Calibration, Embeddings, GeneratorInfo, Images, ScorerInfo, TextEmbedding
from models.protocols.image_inputs import ImageInputs
from models.protocols.upscaling import UpscalerInfo


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts of a model that was loaded, here or elsewhere.

    `seconds_per_candidate` and `steering_refusal` are as in `EngineStats`.
    """

    generator: GeneratorInfo
    scorer: ScorerInfo
    calibration: Calibration | None
    costs: CostModel
    panel: tuple[PanelScorer, ...]
    upscaler: UpscalerInfo | None
    seconds_per_candidate: float = 0.0
    steering_refusal: str | None = None
    capacity: int = 0

    @classmethod
    def of(cls, facts: ModelFacts, stats: EngineStats) -> ModelCard:
        """The card of a loaded model."""
        return cls(
            facts.generator,
            facts.scorer,
            _brief(facts.calibration),
            facts.costs,
            facts.panel,
            facts.upscaler,
            stats.seconds_per_candidate,
            stats.steering_refusal,
            stats.capacity,
        )


def _brief(calibration: Calibration | None) -> Calibration | None:
    """A calibration without the arrays of its heads, which only its engine uses."""
    if calibration is None:
        return None
    head = calibration.head
    brief = None if head is None else replace(head, texts="", images="", maps="")
    return replace(calibration, head=brief, steered=_brief(calibration.steered))


def card_stats(card: ModelCard | None, part: str, capacity: int, *, draining: bool = False) -> EngineStats:
    """The counters of a model that is not loaded here."""
    return EngineStats(
        ready=False,
        dead=False,
        draining=draining,
        part=part,
        held=0,
        queued=0,
        running=0,
        capacity=capacity,
        rows_stepped=0,
        denoiser_calls=0,
        seconds_per_candidate=card.seconds_per_candidate if card is not None else 0.0,
        steering_refusal=card.steering_refusal if card is not None else None,
    )


class ElsewhereEngine(KnownModel):
    """A model that only other replicas hold: requests can be queued, nothing runs."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def _facts(self) -> ModelCard:
        return self.card

    def check_capacity(self, n_candidates: int) -> None:
        """See `Engine`; the store limits the queue."""

    def submit(
        self,
        spec: GenerationSpec,
        sink: UpdateSink,
        *,
        exclusive: bool = False,
        inputs: ImageInputs | None = None,
    ) -> None:
        """Raises ModelAway: the queue takes it."""
        self._refuse(spec, sink, exclusive, inputs)

    def cancel(self, generation_id: str) -> None:
        """See `Engine`: it holds nothing."""

    async def embed_texts(self, texts: Sequence[str], scorer: str | None = None) -> list[TextEmbedding]:
        """Raises ModelAway."""
        self._refuse(texts, scorer)

    async def embed_images(self, images: Sequence[NDArray[np.uint8]], scorer: str | None = None) -> Embeddings:
        """Raises ModelAway."""
        self._refuse(images, scorer)

    async def score_images(self, images: Sequence[NDArray[np.uint8]], text: str, scorer: str) -> NDArray[np.float32]:
        """Raises ModelAway."""
        self._refuse(images, text, scorer)

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Raises ModelAway."""
        self._refuse(image)

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """Raises ModelAway."""
        self._refuse(latents)

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """Raises ModelAway."""
        self._refuse(images)

    async def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """Raises ModelAway."""
        self._refuse(image, prompt, seed)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See `Engine`: nothing to keep."""
        yield

    async def prepare(self, spec: GenerationSpec) -> None:
        """See `Engine`. The replica that runs the spec checks adapters and steering."""

    def stats(self) -> EngineStats:
        """See `Engine`."""
        return card_stats(self.card, "on another replica", self.card.capacity)

    async def close(self, drain_s: float) -> None:
        """See `Engine`: nothing runs."""

    def _refuse(self, *_given: object) -> NoReturn:
        raise ModelAway(
            f"model {self.card.generator.id!r} is on another replica: retry there, or use a generation of this one",
            retry_after_s=1,
        )
