"""What the use cases take and give, where the domain has no word for it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.domain import Checkpoint, InitImage, Notice, Parent, Ranking, Score, Webhook


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. `prompt_chars` counts one text, `images` the files of one ranking.

    `stream_s` bounds the life of one event stream; who wants more comes back and goes on where it ended.
    """

    candidates: int = 64
    default_candidates: int = 16
    steps: int = 150
    guidance_scale: float = 50.0
    prompt_chars: int = 4000
    negatives: int = 16
    images: int = 64
    stream_s: float = 3600.0
    references: int = 8


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """A generation as asked for; None means the model's or the server's own default.

    `n_candidates` "auto" makes waves until another is not worth it, at most `max_candidates`.
    `pruning` "auto", "off" or explicit checkpoints; from a `start` "auto" is off: calibrations are of races from noise.
    `partial_images` asks for that many rounds of previews. Where the number of candidates is left open, it keeps to
    the `affordable` ones.
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
    partial_images: int = 0
    deterministic: bool = False
    output_format: str = "png"
    owner: str = ""
    start: InitImage | None = None
    parent: Parent | None = None
    webhook: Webhook | None = None
    affordable: int | None = None


ParamsFactory: TypeAlias = Callable[[], Awaitable[GenerationParams]]
"""Looks up what a request names; called only when the request is new."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a generation's client waits for it: see `GenerationService.submit`."""

    patient: bool
    watched: bool
    attended: bool


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's wish that a request sent again is not done again.

    `key` is the caller's own, 1 to 255 characters; `fingerprint` (at most 64) is the same for the same request.
    """

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RankedImage:
    """An uploaded image in its place: `index` is its place in the upload, the rest as in `Candidate`."""

    index: int
    rank: int
    score: Score
    softmax: float | None
    z_score: float | None
    duplicate_of: int | None


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
class QueuePosition:
    """Candidates ahead in the queue, and the measured guess of the seconds until the result."""

    position: int
    eta_seconds: float | None


def image_file(data: bytes, output_format: str) -> ImageFile:
    """An image file with its media type and ETag."""
    return ImageFile(data, f"image/{output_format}", f'"{hashlib.sha256(data).hexdigest()[:32]}"')
