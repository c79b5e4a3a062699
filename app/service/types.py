"""Parameters and results of the use cases."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from app.domain import (
    Checkpoint,
    Flag,
    Generation,
    InitImage,
    Notice,
    Parent,
    Provenance,
    Ranking,
    Safety,
    Score,
    Webhook,
)
from app.errors import FrontrunnerError
from models.loras import Lora
from models.protocols import Spread
from models.protocols.guards import ARTEFACT
from models.protocols.image_inputs import ImageInputs
from models.protocols.steering import SteeringSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request: `prompt_chars` per text, `images` per ranking.

    `output_side` limits the sides of resized images, `output_pixels` those of one answer together, `texts` the inputs
    of one embedding request. `stream_s` limits one event stream; clients reconnect and resume. Within
    `retry_window_s` retries of OpenAI clients continue their first request. `provenance` is that of requests that name
    none. `guards` inspect the images of every ranking; a veto selects any of `installed_guards`. `spread_styles` is
    whether candidates of a prompt that names no style are spread over the generator's styles; `auto`: as it says.
    """

    candidates: int = 64
    default_candidates: int = 16
    steps: int = 150
    guidance_scale: float = 50.0
    prompt_chars: int = 4000
    negatives: int = 16
    images: int = 64
    stream_s: float = 3600.0
    retry_window_s: float = 0.0
    references: int = 8
    output_side: int = 4096
    output_pixels: int = 2**26
    texts: int = 1024
    provenance: Provenance = Provenance.NONE
    guards: tuple[str, ...] = (ARTEFACT,)
    installed_guards: tuple[str, ...] = (ARTEFACT,)
    spread_styles: Spread = "auto"


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """Requested generation; None selects the model's or the server's default.

    `n_candidates` "auto" adds waves while another one pays off, up to `max_candidates`. `pruning` is "auto", "off" or
    explicit checkpoints. "auto" is off with a `start`, since calibrations cover only sampling from noise. `inputs` hold
    the mask of a `start`, and control images. `loras` None selects the server's adapters, an empty tuple none.
    `partial_images` is the number of preview rounds. `affordable` limits an open number of candidates to the quota.
    `wordings` are other texts to sample from, see `GenerationSpec`; `prompt` ranks all of them.
    `quality` selects defaults, see `app.service.quality`.
    `settle_size` turns `aspect_ratio`, `fit` and `output_size` into the sampled size and the answered one. `notices`
    are warnings about how the parameters were made.
    """

    prompt: str
    negative_prompt: str = ""
    n_candidates: int | Literal["auto"] | None = None
    max_candidates: int | None = None
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
    steering: SteeringSettings | None = None
    partial_images: int = 0
    deterministic: bool = False
    output_format: str = "png"
    owner: str = ""
    start: InitImage | None = None
    inputs: ImageInputs | None = None
    loras: tuple[Lora, ...] | None = None
    parent: Parent | None = None
    webhook: Webhook | None = None
    affordable: int | None = None
    aspect_ratio: tuple[int, int] | None = None
    fit: Literal["exact", "nearest"] = "exact"
    output_size: tuple[int, int] | None = None
    provenance: Provenance | None = None
    safety: Safety | None = None
    job: Literal["txt2img", "img2img"] | None = None
    notices: tuple[Notice, ...] = ()
    wordings: tuple[str, ...] = ()
    quality: Literal["draft", "standard", "best"] | None = None


ParamsFactory: TypeAlias = Callable[[], Awaitable[GenerationParams]]
"""Resolves what a request refers to; called only for new requests."""


@dataclass(frozen=True, slots=True)
class PreparedGeneration:
    """A checked generation that is not stored, and the images that steer it."""

    generation: Generation
    inputs: ImageInputs | None

    @property
    def input_pixels(self) -> int:
        """Pixels of its control images, which are held until it is stored."""
        controls = self.inputs.controls if self.inputs is not None else ()
        return sum(each.image[..., 0].size for each in controls)


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How the client waits, see `GenerationService.submit`."""

    queue_if_full: bool
    previews: bool
    attended: bool


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Makes a repeated request return the earlier result.

    `key` is the caller's, 1 to 255 characters; `fingerprint` (at most 64) is equal for equal requests. With a
    `window_s` the key only serves retries: a request that is no `retry` starts a generation and takes the key over. So
    does a retry of what failed or is older.
    """

    key: str
    fingerprint: str
    window_s: float | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class RankedImage:
    """An upload: `index` is its position; the rest as in `Candidate`."""

    index: int
    rank: int
    score: Score
    softmax: float | None
    z_score: float | None
    duplicate_of: int | None
    flags: tuple[Flag, ...] = ()
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class RankResult:
    """Uploaded images ranked against one prompt, best first.

    `count` images were ranked. `vetoed` are those with a vetoed flag, which have no rank, by index.
    """

    scorer: str
    prompt: str
    ranking: Ranking
    count: int
    images: tuple[RankedImage, ...]
    margin: float | None
    low_confidence: bool
    warnings: tuple[Notice, ...]
    vetoed: Mapping[int, tuple[Flag, ...]] = field(default_factory=dict)
    agreement: float | None = None
    margin_error: float | None = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded image: bytes, media type (`image/png`...) and a strong ETag (quoted).

    `upscaler` says how it was enlarged, as in the response header; None if it was not.
    """

    data: bytes
    media_type: str
    etag: str
    upscaler: str | None = None


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Candidates ahead in the queue, and the estimated seconds to the result."""

    position: int
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """A model that comes and goes, for the worker that claims its work.

    `ask` loads it. `failure` is why it cannot be loaded, if no other replica can run its work either. `has_work` is
    whether the queue may have some. Both raise StoreUnavailable.
    """

    model: str
    ask: Callable[[], None]
    failure: Callable[[], Awaitable[FrontrunnerError | None]]
    has_work: Callable[[], Awaitable[bool]]


def image_file(data: bytes, output_format: str, upscaler: str | None = None) -> ImageFile:
    """An image file with its media type and ETag."""
    return ImageFile(data, f"image/{output_format}", f'"{hashlib.sha256(data).hexdigest()[:32]}"', upscaler)
