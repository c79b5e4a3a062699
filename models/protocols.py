"""What the engine asks of a neural model, said without torch.

Owns the protocols `StepwiseGenerator` and `Embedder` and the plain values that cross them. Tensors stay behind the
border: the engine carries `Latent` and `Pixels` as opaque handles and never looks inside. Every method here is
called from one thread only, the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Latent: TypeAlias = Any
"""A candidate's state between two steps: x and, once stepped, the x0 estimate of the last step."""

Pixels: TypeAlias = Any
"""uint8 (B, H, W, 3), sRGB: a NumPy array, or a torch tensor on the generator's device. See `to_host`."""

Images: TypeAlias = NDArray[np.uint8]
"""uint8 (B, H, W, 3), sRGB, in host memory."""

Embeddings: TypeAlias = NDArray[np.float32]
"""float32 (B, D), every row L2-normalised."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """A text that did not fit: `tokens` counted with the special ones, `dropped` is the lost tail in words."""

    tokens: int
    limit: int
    dropped: str


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A text as the denoiser wants it. `state` is opaque and may be shared by any number of rows.

    Rows share a denoiser call only when their conditionings have the same `length` (tokens).
    """

    state: Any
    length: int
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A sampler with a number of steps, as a table: one row a step, see `COLUMNS`.

    The denoiser is called with `c_in * x` at time `t`; with its output m, the estimate of the finished latent is
    `x0 = c * x + d * m` and the next state `x' = a * x + b * m + h * x0_of_the_step_before + s * noise`.
    The first x is `noise_scale` times unit noise. A finished latent enters at a step as
    `entry[step, 0] * latent + entry[step, 1] * unit noise`, float64 (steps, 2).
    """

    COLUMNS = ("t", "c_in", "a", "b", "c", "d", "h", "s")

    sampler: str
    noise_scale: float
    table: NDArray[np.float64]
    entry: NDArray[np.float64]

    @property
    def steps(self) -> int:
        """Number of denoising steps; a sampler may make one more or less than was asked for."""
        return len(self.table)


QUADRATIC = "ddim_quadratic"
"""Sampler whose times fall as the square of the share of steps left: see `solver_tables.quadratic_times`."""


def time_done(sampler: str, share: float) -> float:
    """Share of the noise schedule's time that lies behind a sampler once `share` of its steps is done, both 0..1.

    Most samplers space their steps evenly; `QUADRATIC` goes through the noise in larger steps and
    spends more of them on what is nearly clean (Song et al., Denoising Diffusion Implicit Models, 2021, appendix D).
    """
    return 1.0 - (1.0 - share) ** _power(sampler)


def steps_left(sampler: str, time: float) -> float:
    """Share of a sampler's steps that falls into the last `time` of the noise schedule: `time_done` read backwards."""
    return float(time ** (1 / _power(sampler)))


def _power(sampler: str) -> int:
    return 2 if sampler == QUADRATIC else 1


@dataclass(frozen=True, slots=True)
class StepRow:
    """One denoising step of one candidate. `negative` None means unguided: one entry in the batch, else two."""

    latent: Latent
    prompt: Conditioning
    negative: Conditioning | None
    guidance_scale: float
    schedule: Schedule
    step: int
    seed: int

    @property
    def entries(self) -> int:
        """Denoiser batch entries this row costs."""
        return 1 if self.negative is None else 2


Guidance: TypeAlias = Literal["cfg", "embedded", "none"]
"""What the guidance scale does: weighs two predictions, is an input of the denoiser, or nothing."""


@dataclass(frozen=True, slots=True)
class GeneratorInfo:
    """A generator's name, limits and defaults. Sizes in pixels; `revision` changes when the weights do.

    `negative_prompts`: whether a negative prompt steers sampling.
    """

    id: str
    revision: str
    width: int
    height: int
    size_multiple: int
    max_size: int
    steps: int
    guidance_scale: float
    sampler: str
    samplers: tuple[str, ...]
    token_limit: int
    prediction_type: str
    device: str
    dtype: str
    guidance: Guidance = "cfg"
    negative_prompts: bool = True


@dataclass(frozen=True, slots=True)
class ScorerInfo:
    """A scorer's name and limits.

    `null_mean` and `null_std` are of the cosines of images with texts that do not belong together; None if unknown.
    """

    id: str
    revision: str
    dimensions: int
    image_size: int
    token_limit: int
    logit_scale: float
    device: str
    null_mean: float | None = None
    null_std: float | None = None


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A text in the scorer's space: `vector` float32 (D,), L2-normalised.

    `recognised` is False when the vocabulary holds no part of the text: every token stands for something unknown, and
    the vector says nothing of the text.
    """

    vector: NDArray[np.float32]
    truncation: Truncation | None = None
    recognised: bool = True


MAX_GUIDANCE_RATIO = 1.5
"""How far from a calibration's guidance scale its correlations are trusted, as a factor; 1 and less are unguided."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well previews foretell final scores, for one generator and one scorer, measured over whole runs.

    generator, scorer: the revisions it was measured with; for others it means nothing. sampler, steps, guidance_scale:
    of those runs.
    The tuples hold one value a step, the first after step 1: `spearman`, the rank correlation of preview score and
    final score within a prompt; `preview_weight` and `gap_weight`, the least-squares fit of the final score from the
    preview score and the guidance gap (see `StepwiseGenerator.guidance_gaps`); `correlation`, that of normal scores
    with which a cut by that fit would keep as much of the best's lead as it did keep, the lower quartile over resampled
    prompts.
    """

    generator: str
    scorer: str
    sampler: str
    steps: int
    guidance_scale: float
    spearman: tuple[float, ...]
    correlation: tuple[float, ...]
    preview_weight: tuple[float, ...]
    gap_weight: tuple[float, ...]

    def matches(self, generator: GeneratorInfo, scorer: ScorerInfo) -> bool:
        """Whether it was measured with these very weights."""
        return (self.generator, self.scorer) == (generator.revision, scorer.revision)

    def covers_guidance(self, guidance_scale: float) -> bool:
        """Whether it says something of races at this guidance: within a factor of `MAX_GUIDANCE_RATIO` of its own."""
        near, far = sorted(max(1.0, scale) for scale in (self.guidance_scale, guidance_scale))
        return far <= MAX_GUIDANCE_RATIO * near


class StepwiseGenerator(Protocol):
    """A latent diffusion model whose denoiser takes one timestep a row."""

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        ...

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        """Texts as the denoiser wants them, in order; the empty text is the unconditional one. May be cached.

        `negative` marks texts to be avoided: some families put an instruction before prompts only.
        """
        ...

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The steps of a sampler for images of this size in pixels: some families shift their times by it.

        Raises ValueError for a sampler not in `info.samplers`, steps out of reach or a size that cannot be made.
        """
        ...

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> Latent:
        """The first state of a candidate: depends on these arguments only, and is the same on every device."""
        ...

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> Latent:
        """The state before step `start` of a candidate that begins as a picture instead of noise.

        `array` (C, h, w) is from `dump` or `encode_image`; the noise is that of `noise` with this seed. Raises
        ValueError for a generator that cannot begin at a picture.
        """
        ...

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Pictures of one size as finished latents, for storage and `add_noise`: float16 (B, C, h, w).

        Width and height are multiples of `info.size_multiple`. Raises `OutOfMemory`.
        """
        ...

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One denoiser call for rows of equal latent shape and text length, padded to `size` >= len(rows) rows.

        A row's bits depend on `size` and on how many of the rows are guided, on nothing else of its company.
        Raises `OutOfMemory` when the device cannot hold the batch.
        """
        ...

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """How far guidance pulled at the last step: root mean square of (guided by text - by negative), float32 (B,).

        Zero for rows that made no step or were unguided.
        """
        ...

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Pixels:
        """Latents of one shape as pixels. `preview` decodes the x0 estimate, by a tiny decoder where there is one."""
        ...

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, C, h, w). `preview` takes the x0 estimate."""
        ...

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents back from `dump`, good for `decode`."""
        ...


class Embedder(Protocol):
    """A joint image and text embedder (CLIP)."""

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        ...

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size, any device, in order. Raises `OutOfMemory`."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order. May be cached."""
        ...

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Parts of one image (H, W, 3) in the same space: unit vectors float32 (h, w, D), top left first.

        None when the image tower has no such parts.
        """
        ...


@dataclass(frozen=True, slots=True)
class Models:
    """What one process serves; belongs to one thread once it is in use."""

    generator: StepwiseGenerator
    scorer: Embedder
    calibration: Calibration | None = None


class OutOfMemory(RuntimeError):
    """The device could not hold a batch; a smaller one may fit."""


def to_host(pixels: Pixels) -> Images:
    """Pixels as a contiguous NumPy array, copied from the device where they live on one."""
    host = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    return np.ascontiguousarray(host, dtype=np.uint8)
