"""What a native loop must know about a family of pipelines.

Owns the defaults that most families share, and the packing of latents into tokens. `models.generators.native` makes
the steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch

from models.errors import ModelUnsupported
from models.generators.flow_schedules import FlowSchedules
from models.generators.pipeline_facts import Usual, call_defaults, default_size, usual_steps
from models.generators.text_limits import Reader
from models.protocols import Guidance, PromptWeights, Schedule, Truncation
from models.runtime.placement import DevicePlacement

NO_CHUNKS = "set FRONTRUNNER_LONG_PROMPTS to truncate"
"""What to do if long prompts cannot be read in chunks."""

_ENCODED = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
_NOT_SETTINGS = ("negative_prompt", "negative_prompt_2", "negative_prompt_3")


class Schedules(Protocol):
    """The samplers of a model. `default` is one of `samplers`.

    `second_order` names those with two denoiser calls per step.
    """

    samplers: tuple[str, ...]
    second_order: tuple[str, ...]
    default: str
    prediction_type: str

    def __call__(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The table of a sampler at a size in pixels.

        Raises ValueError for an unknown sampler, and for unsupported steps or sizes.
        """
        ...

    def begun(self, schedule: Schedule, first: int) -> Schedule:
        """The same schedule for a candidate that begins at row `first`.

        It differs for samplers that look back further than one step.
        """
        ...


class NativeFamily:
    """A family of pipelines.

    Tensors have one row per entry of a batch, on dimension 0. Required: `texts` and `denoise`. The defaults are those
    of a flow-matching transformer with classifier-free guidance and an `AutoencoderKL`.
    """

    guidance_argument: ClassVar[str] = "guidance_scale"
    """The argument of the pipeline's call that `guidance_scale` stands for."""

    unguided: ClassVar[float] = 1.0
    """The largest guidance scale at which the pipeline makes one prediction."""

    cells: ClassVar[int] = 2
    """Width and height are multiples of so many latent cells."""

    traceable: ClassVar[bool] = True
    """Whether `denoise` can be traced.

    Then it branches on shapes only, and does not loop over rows.
    """

    shares_decoder: ClassVar[bool] = True
    """Whether threads can share a call of the autoencoder.

    Not if it keeps state on itself during a call.
    """

    def __init__(
        self, pipe: Any, placement: DevicePlacement, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        """Take a loaded pipeline and the arguments that each of its calls would get.

        `defaults` may hold the default `width` and `height`, in pixels. Raises ModelUnsupported for a pipeline that
        this family cannot make.
        """
        self.pipe = pipe
        self.placement = placement
        self.settings = call_defaults(pipe) | dict(arguments)
        self.arguments = dict(arguments)
        self.factor = int(pipe.vae_scale_factor)
        width, height = default_size(pipe, self.settings)
        self.size = int(defaults.get("width", width)), int(defaults.get("height", height))
        self._reader = Reader(pipe.components, self.settings)

    # what the model is

    @property
    def denoiser(self) -> Any:
        """The module that makes predictions."""
        return self.pipe.transformer

    @property
    def guidance(self) -> Guidance:
        """How the guidance scale works."""
        return "cfg"

    @property
    def prompt_weights(self) -> PromptWeights:
        """Whether weights in prompts are applied."""
        return "unsupported"

    @property
    def negative_prompts(self) -> bool:
        """Whether a negative prompt has an effect."""
        return self.guidance == "cfg"

    @property
    def token_limit(self) -> int:
        """Tokens of a text that are read."""
        return self._reader.limit

    @property
    def modules(self) -> list[Any]:
        """The modules that decide what is made, for the revision."""
        return [each for each in self.pipe.components.values() if isinstance(each, torch.nn.Module)]

    def usual(self, id: str, defaults: Mapping[str, Any]) -> Usual:
        """Default steps and guidance of the model of this name.

        A pack's `defaults` may name others.
        """
        steps, guidance = self.settings["num_inference_steps"], self.settings.get(self.guidance_argument)
        return usual_steps(id, self.pipe, int(steps), float(guidance or 0.0), defaults)

    @cached_property
    def schedules(self) -> Schedules:
        """The samplers of the model.

        Raises ModelUnsupported if its scheduler has no table.
        """
        plain = {"use_resolution_binning": False} if "use_resolution_binning" in self.settings else {}
        arguments = {**plain, **self.arguments, self.guidance_argument: self.unguided}
        made = FlowSchedules(self.pipe, arguments, lambda: self.encoded(""))
        made.check(*self.size)
        return made

    def prepare(self, module: Any) -> None:
        """Prepare a denoiser or an autoencoder for inference."""
        module.requires_grad_(False)

    # texts

    def read_in_chunks(self) -> None:
        """Encode long texts in chunks from now on.

        Raises ModelUnsupported if the family's texts cannot be split, or a library is missing.
        """
        raise ModelUnsupported("only Stable Diffusion and SDXL read long prompts in chunks; " + NO_CHUNKS)

    def chunks(self, tokens: int) -> int:  # noqa: ARG002
        """In how many parts an encoding of so many tokens was made."""
        return 1

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:
        """Encodings of a text without a batch dimension; the first is (tokens, ...).

        `negative` is its role. They reach `denoise` stacked.
        """
        raise NotImplementedError

    def truncation(self, text: str) -> Truncation | None:
        """What is cut off the text; None if it fits."""
        return self._reader.cut(text)

    def encoded(self, text: str, **changes: Any) -> Any:
        """`encode_prompt` of the pipeline for one text, with the settings of its call.

        The empty text is kept: schedules need it too.
        """
        return self._encode(text, changes) if text or changes else self._empty

    @cached_property
    def _empty(self) -> Any:
        return self._encode("", {})

    def _encode(self, text: str, changes: Mapping[str, Any]) -> Any:
        known = inspect.signature(self.pipe.encode_prompt).parameters
        settings = {name: value for name, value in self.settings.items() if name not in _NOT_SETTINGS}
        wanted = {**settings, **_ENCODED, "prompt": text, "device": self.placement.device, **changes}
        return self.pipe.encode_prompt(**{name: value for name, value in wanted.items() if name in known})

    # one call

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of x at an image size in pixels."""
        return int(self.denoiser.config.in_channels), height // self.factor, width // self.factor

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """The prediction for x (B, C, h, w), of the same shape, as the scheduler takes it.

        `t` (B,) are times of the schedule, `guidance` (B,) the scales.
        """
        raise NotImplementedError

    def combine(self, positive: Any, negative: Any, scale: Any) -> Any:
        """The guided prediction of two (B, C, h, w); `scale` is (B, 1, 1, 1)."""
        return negative + scale * (positive - negative)

    # images

    def to_decoder(self, vae: Any, x: Any) -> Any:
        """The decoder's input of x, float32. `vae` may be a preview decoder."""
        return x / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)

    def from_encoder(self, z: Any) -> Any:
        """The encoder's output as x; the inverse of `to_decoder`."""
        return (z - (self.pipe.vae.config.get("shift_factor") or 0.0)) * self.pipe.vae.config.scaling_factor

    def decode(self, vae: Any, z: Any) -> Any:
        """Images of the decoder's inputs, (B, 3, H, W) in -1..1."""
        return vae.decode(z, return_dict=False)[0]

    def encode(self, vae: Any, image: Any) -> Any:
        """The most likely latents of images (B, 3, H, W) in -1..1."""
        encoded = vae.encode(image, return_dict=False)[0]
        return encoded if torch.is_tensor(encoded) else encoded.mode()


class FilmFamily(NativeFamily):
    """A family with an autoencoder for films, of which an image is one frame.

    Latents with a mean and a deviation per channel. The autoencoder keeps frames on itself during a call.
    """

    shares_decoder: ClassVar[bool] = False

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w); the denoiser sees 4 C channels in packed cells."""
        return int(self.denoiser.config.in_channels) // 4, height // self.factor, width // self.factor

    def to_decoder(self, vae: Any, x: Any) -> Any:
        """A preview decoder without statistics takes x as it is."""
        mean, std = _statistics(vae.config, x.device)
        return x * std + mean

    def from_encoder(self, z: Any) -> Any:
        """The inverse of `to_decoder`."""
        mean, std = _statistics(self.pipe.vae.config, z.device)
        return (z - mean) / std

    def decode(self, vae: Any, z: Any) -> Any:
        """The first frame."""
        if vae is not self.pipe.vae:
            return super().decode(vae, z)
        return super().decode(vae, z.unsqueeze(2))[:, :, 0]

    def encode(self, vae: Any, image: Any) -> Any:
        """A film of one frame."""
        return super().encode(vae, image.unsqueeze(2))[:, :, 0]


def pack(x: Any) -> Any:
    """Latents (B, C, h, w) as tokens of 2 x 2 cells, (B, h / 2 * w / 2, 4 C)."""
    channels, height, width = x.shape[1:]
    cells = x.reshape(-1, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, height * width // 4, channels * 4)


def unpack(tokens: Any, height: int, width: int) -> Any:
    """The inverse of `pack`, (B, C, height, width)."""
    channels = tokens.shape[2] // 4
    cells = tokens.reshape(-1, height // 2, width // 2, channels, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def _statistics(config: Any, device: Any) -> tuple[Any, Any]:
    """Mean and standard deviation per channel; 0 and 1 where a decoder has none."""
    found = config.get("latents_mean") or [0.0], config.get("latents_std") or [1.0]
    mean, std = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in found)
    return mean, std
