"""Protocols between the engine and neural models, without torch.

Owns the protocol of generators. Tables of samplers are in `schedules`, scorers in `scoring`, generators without steps
in `narrow`, and images and embeddings in `values`. Tensors stay on the models' side: the engine carries `Latent` and
`Pixels` as opaque handles. Every method is called from one thread, the engine's, except those of remote scorers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.load_options import LongPrompts as LongPrompts
from models.loras import Lora
from models.protocols.guards import ArtefactLimits
from models.protocols.image_inputs import ImageInputs, Inpainting
from models.protocols.readings import Reading as Reading
from models.protocols.schedules import QUADRATIC as QUADRATIC
from models.protocols.schedules import Schedule as Schedule
from models.protocols.schedules import steps_left as steps_left
from models.protocols.schedules import time_done as time_done
from models.protocols.scoring import Embedder as Embedder
from models.protocols.scoring import MatchCalibration as MatchCalibration
from models.protocols.scoring import Scorer as Scorer
from models.protocols.scoring import ScorerInfo as ScorerInfo
from models.protocols.scoring import ScoringInfo as ScoringInfo
from models.protocols.scoring import TextEmbedding as TextEmbedding
from models.protocols.scoring import embeds as embeds
from models.protocols.steering import Steering, SteeringSettings
from models.protocols.styles import Spread as Spread
from models.protocols.styles import Styles as Styles
from models.protocols.upscaling import Upscaler
from models.protocols.values import Embeddings as Embeddings
from models.protocols.values import Images as Images
from models.protocols.values import Pixels as Pixels
from models.protocols.values import PreviewHead as PreviewHead
from models.protocols.values import Truncation as Truncation
from models.protocols.values import WholeImages as WholeImages
from models.protocols.values import packed as packed
from models.protocols.values import to_host as to_host

Latent: TypeAlias = Any
"""A candidate's state between two steps: x, and the last step's x0 estimate."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A text, encoded for the denoiser.

    `state` is opaque and may be shared by any number of rows. Rows share a denoiser call only if their conditionings
    have the same `length` (tokens). `chunks` is in how many parts a long text was encoded. `reading` is set if another
    text was encoded instead.
    """

    state: Any
    length: int
    truncation: Truncation | None = None
    chunks: int = 1
    reading: Reading | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One denoiser call of one candidate, with the update that follows.

    `negative` None means unguided; where the scale guides all the same, see `GeneratorInfo.is_guided`, it stands for
    the empty text.

    `step` is the row of the schedule's table. With `inpainting`, the new state outside the mask is the source, noised
    to the level of the next step; see `inpainting.LatentBlender`. The new state of a `steered` row may be moved by
    `Steering`, so its latent holds what that needs.
    """

    latent: Latent
    prompt: Conditioning
    negative: Conditioning | None
    guidance_scale: float
    schedule: Schedule
    step: int
    seed: int
    inputs: ImageInputs | None = None
    steered: bool = False

    @property
    def inpainting(self) -> Inpainting | None:
        """The source and mask of a row that redraws a part of an image."""
        return None if self.inputs is None else self.inputs.inpainting


Guidance: TypeAlias = Literal["cfg", "embedded", "none"]
"""How the guidance scale works.

`cfg`: it weighs two predictions. `embedded`: it is an input of the denoiser. `none`: it has no effect.
"""


PromptWeights: TypeAlias = Literal["applied", "not_installed", "unsupported"]
"""What becomes of weights in prompts, see `prompt_weights`.

`not_installed`: the library that applies them is missing. `unsupported`: the text encoder takes none.
"""


DefaultsSource: TypeAlias = Literal["pipeline", "files", "name"]
"""What default steps and guidance follow from.

`pipeline`: the defaults of the pipeline. `files`: the model's files or its pack. `name`: a word in the model's name, so
they are assumed.
"""


@dataclass(frozen=True, slots=True)
class GeneratorInfo:
    """A generator's name, limits and defaults. Sizes are in pixels.

    `revision` changes when the weights do. `negative_prompts` is whether a negative prompt has an effect, in guided
    rows. `unguided_scale` is the largest guidance scale at which a `cfg` model makes one prediction; below 0 it always
    makes two. `second_order` names the samplers that call the denoiser twice per step.
    `whole_images` are the traits of a generator that makes whole images elsewhere, without steps here; None for others.
    `controls` are the kinds of images that can control the composition. `loras` are the adapters of requests that name
    none; None if the generator takes no adapters. `styles` are those that prompts can name. `defaults_from` is what
    `steps` and `guidance_scale` follow from.
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
    unguided_scale: float = 1.0
    second_order: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    loras: tuple[Lora, ...] | None = None
    styles: Styles | None = None
    prompt_weights: PromptWeights = "unsupported"
    long_prompts: LongPrompts = "truncate"
    defaults_from: DefaultsSource = "pipeline"
    whole_images: WholeImages | None = None

    def calls_per_step(self, sampler: str) -> int:
        """Denoiser calls of most steps of a sampler."""
        return 2 if sampler in self.second_order else 1

    def is_guided(self, guidance_scale: float) -> bool:
        """Whether a row at this scale is two entries of the denoiser's batch."""
        return self.guidance == "cfg" and guidance_scale > self.unguided_scale


MAX_GUIDANCE_RATIO = 1.5
"""Largest factor between a calibration's guidance scale and a request's.

Beyond it the calibration is not used. Scales count from the largest unguided one, which counts as 1.
"""


@dataclass(frozen=True, slots=True)
class ReplayedPlans:
    """What plans kept of the best-of-N gain, on prompts that they were not made from.

    `loss_ratio`, with its standard error `loss_ratio_error`, is the real loss relative to the planner's modelled one.
    `kept`, with `kept_error`, is the mean share kept of the gain, where plans took the ratio into account. The plans
    were for the best of `candidates` at `quality`, on the device of the calibration. `prompts` were replayed.
    """

    candidates: int
    prompts: int
    quality: float
    kept: float
    kept_error: float
    loss_ratio: float
    loss_ratio_error: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well previews predict final scores, for one generator and one scorer.

    Measured over whole runs. `generator` and `scorer` are the revisions it was measured with; it is invalid for others.
    `sampler`, `steps` and `guidance_scale` are those of the runs.

    The tuples hold one value per step; the first is the state after step 1. `spearman` is the rank correlation of
    preview score and final score within a prompt. `preview_weight` and `gap_weight` are the least-squares fit of the
    final score from the preview score and the guidance gap (see `StepwiseGenerator.guidance_gaps`). After steps where
    `head` is used, the preview score is that of its estimate.

    `correlation` is an effective one. Pruning by the fit keeps as much of the best candidate's lead as it would for
    normal scores of this correlation. It is the lower quartile over resampled prompts.

    `artefacts` are limits of the statistics of random images; None if they were not measured. `steering` (scale, start,
    end) are the settings of steered runs. `steered` is the calibration of such runs. `head` belongs to the vectors of
    this scorer; None if none was fitted. `match` is the probability of a match; None if it was not measured. `replay`
    is what plans kept; None if it was not measured.
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
    artefacts: ArtefactLimits | None = None
    steering: tuple[float, ...] | None = None
    steered: Calibration | None = None
    head: PreviewHead | None = None
    match: MatchCalibration | None = None
    replay: ReplayedPlans | None = None

    def matches(self, generator: GeneratorInfo, scorer: ScorerInfo) -> bool:
        """Whether it was measured with exactly these weights."""
        fits = self.head is None or self.head.dimensions == scorer.dimensions
        return fits and (self.generator, self.scorer) == (generator.revision, scorer.revision)

    def covers_guidance(self, guidance_scale: float, unguided_scale: float = 1.0) -> bool:
        """Whether it is valid at this guidance scale, see `MAX_GUIDANCE_RATIO`.

        `unguided_scale` is that of the generator.
        """
        near, far = sorted(1 + max(0.0, scale - unguided_scale) for scale in (self.guidance_scale, guidance_scale))
        return far <= MAX_GUIDANCE_RATIO * near

    def of_steering(self, steering: SteeringSettings | None) -> Calibration | None:
        """The one of these that was measured with these settings; None if there is none."""
        wanted = None if steering is None else (steering.scale, steering.start, steering.end)
        return next((each for each in (self, self.steered) if each is not None and each.steering == wanted), None)


class StepwiseGenerator(Protocol):
    """A latent diffusion model whose denoiser takes one timestep per row."""

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        ...

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        """Encode texts for the denoiser, in order. May be cached.

        The empty text is the unconditional one. `negative` marks negative prompts: some families put an instruction
        before positive prompts only.
        """
        ...

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The steps of a sampler at an image size in pixels, which shifts some schedules.

        Raises ValueError for a sampler not in `info.samplers`, and for unsupported steps or sizes.
        """
        ...

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> Latent:
        """The first state of a candidate.

        It depends on these arguments only, and is the same on every device.
        """
        ...

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> Latent:
        """The state of a candidate that starts from an image, before row `start`.

        `array` (C, h, w) is from `dump` or `encode_image`. The noise is that of `noise` with this seed. Raises
        ValueError if the generator does not support image to image.
        """
        ...

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Images of one size as finished latents, float16 (B, C, h, w).

        For storage and `add_noise`. Width and height are multiples of `info.size_multiple`. Raises `OutOfMemory`.
        """
        ...

    def adapt(self, loras: tuple[Lora, ...]) -> None:
        """Use these adapters, and no others, in the next calls of `encode` and `step`.

        Loads them from their files when needed. Encodings and latents belong to the adapters they were made with.
        Raises ValueError for adapters that cannot be used with this generator; then none is in use.
        """
        ...

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One denoiser call and update for rows of equal latent shape and text length.

        The batch is padded to `size` >= len(rows) rows. The bits of a row depend on `size` and on the number of guided
        rows, not on the other rows' contents. Raises `OutOfMemory` if the device cannot hold the batch.
        """
        ...

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """Size of the guidance difference at the last step, float32 (B,).

        The root mean square of (prediction for the prompt - prediction for the negative). Zero for rows that were
        unguided or made no step.
        """
        ...

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Pixels:
        """Latents of one shape as pixels. Raises `OutOfMemory`.

        `preview` decodes the x0 estimate, with a tiny decoder if there is one.
        """
        ...

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, C, h, w). `preview` takes the x0 estimate."""
        ...

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents from arrays of `dump`, for `decode`."""
        ...


@dataclass(frozen=True, slots=True)
class Models:
    """What one process serves. Used from one thread only, except for remote scorers.

    `members` judge finalists beside `scorer`, for requests that name them. The `referee` never ranks. `steering` is
    None if generator or scorer gives no gradients. `weight_bytes` is the size of all weights; 0 if unknown.
    """

    generator: StepwiseGenerator
    scorer: Embedder
    calibration: Calibration | None = None
    upscaler: Upscaler | None = None
    members: tuple[Embedder | Scorer, ...] = ()
    referee: Embedder | Scorer | None = None
    steering: Steering | None = None
    weight_bytes: int = 0


class OutOfMemory(RuntimeError):
    """The device cannot hold a batch; a smaller one may fit."""
