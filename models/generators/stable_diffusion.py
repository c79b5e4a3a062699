"""Stable Diffusion and SDXL pipelines as a `StepwiseGenerator`.

diffusers loads, encodes and decodes; the sampling loop is native. Owns the batch of one denoiser call, the update of
its rows, and decoding. Tables come from `schedules`, texts from `prompt_encoding`. Safety checker and watermark are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.generators.prompt_encoding import PromptEncoder
from models.generators.schedules import DiffusersSchedules
from models.protocols import Conditioning, GeneratorInfo, Images, Latent, Pixels, Schedule, StepRow
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard

_SIZE_MULTIPLE = 8
_STEPS = 30
_GUIDANCE = {"StableDiffusionPipeline": 7.5, "StableDiffusionXLPipeline": 5.0}


@dataclass(frozen=True, slots=True, eq=False)
class TorchLatent:
    """A candidate between two steps, on the device.

    `x` and `x0` are float32 (C, h, w); `guidance_gap` is a scalar.
    """

    x: Any
    x0: Any | None = None
    guidance_gap: Any | None = None


class StableDiffusionGenerator:
    """A pipeline whose rows may differ in step, sampler, prompt and guidance."""

    def __init__(
        self,
        pipe: Any,
        placement: DevicePlacement,
        *,
        id: str,
        revision: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        preview_decoder: Any | None = None,
    ) -> None:
        """Take a loaded pipeline.

        `defaults` may hold `steps`, `guidance_scale` and `sampler`. `preview_decoder` is an AutoencoderTiny of the same
        latent space. Raises ModelUnsupported for a pipeline that cannot run row by row.
        """
        _check_pipeline(pipe)
        if placement.dtype == torch.float16 and pipe.vae.config.get("force_upcast"):
            pipe.vae.to(torch.float32)
        self._placement = placement
        tiny = preview_decoder or pipe.vae
        for module in (pipe.unet, pipe.vae, tiny):
            module.to(memory_format=torch.channels_last).requires_grad_(False)
        self._unet, self._vae, self._preview_decoder = pipe.unet, pipe.vae, tiny
        self._denoiser = placement.traced(partial(_denoiser_output, pipe.unet))
        self._decoded = placement.traced(partial(_decoded, pipe.vae))
        self._encoded = partial(_mode, pipe.vae)
        self._previewed = placement.traced(partial(_decoded, tiny)) if preview_decoder else self._decoded
        self._xl = type(pipe).__name__ == "StableDiffusionXLPipeline"
        self._factor = int(pipe.vae_scale_factor)
        self._schedules = DiffusersSchedules(pipe.scheduler)
        self._texts = PromptEncoder(pipe, placement.device, placement.dtype)
        self._info = self._describe(pipe, id, revision, defaults or {})

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:  # noqa: ARG002
        """Encode texts for the denoiser, in order, with a cache.

        On SDXL the encoding of the empty text may be zeros.
        """
        return self._texts(texts)

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """The table of a sampler, cached.

        Raises ValueError for a sampler not in `info.samplers` or too many steps.
        """
        return self._schedules(sampler, steps)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> TorchLatent:
        """The first state: the stock pipeline's noise times the schedule's scale.

        That noise is drawn from a CPU generator of this seed. Width and height in pixels, multiples of
        `info.size_multiple`.
        """
        shape = (self._unet.config.in_channels, height // self._factor, width // self._factor)
        unit = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return TorchLatent((unit * schedule.noise_scale).to(self._placement.device))

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> TorchLatent:
        """Latents and noise, mixed as in the stock image-to-image pipeline.

        The noise is drawn from a CPU generator of this seed.
        """
        signal, scale = (float(weight) for weight in schedule.entry[start])
        unit = torch.randn(array.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        latent = torch.from_numpy(array.astype(np.float32))
        return TorchLatent((signal * latent + scale * unit).to(self._placement.device))

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Images as finished latents: the mode of the encoder's distribution.

        Raises `OutOfMemory`.
        """
        with memory_guard():
            image = torch.from_numpy(pixels).to(self._placement.device).permute(0, 3, 1, 2).to(self._vae.dtype)
            mode = self._placement.parallel(self._encoded, image / 127.5 - 1.0)
            return np.asarray(_scale(self._vae.config, mode.float()).to(torch.float16).cpu().numpy())

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One denoiser call for rows of one latent shape and text length.

        The batch is padded to `size` by repeating the last row. The bits of a row depend on `size` and on the number of
        guided rows, not on the other rows' contents. The update is float32, whatever the denoiser's type. Raises
        `OutOfMemory`, and ValueError for no rows or more than `size`.
        """
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        with memory_guard():
            padded = [*rows, *[rows[-1]] * (size - len(rows))]
            x = torch.stack([row.latent.x for row in padded])
            table = np.stack([row.schedule.table[row.step] for row in padded])
            t, c_in, a, b, c, d, h, s = self._on_device(table.T)
            output, gaps = self._denoise(padded, _column(c_in) * x, t)
            x0 = _column(c) * x + _column(d) * output
            after = _column(a) * x + _column(b) * output
            if table[:, 6].any():
                after = after + _column(h) * _history(padded, x0)
            if table[:, 7].any():
                after = after + _column(s) * _ancestral_noise(padded, table[:, 7]).to(x.device)
            return [TorchLatent(after[i], x0[i], gaps[i]) for i in range(len(rows))]

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """Root mean square of the last guidance difference, float32 (B,).

        Zero for rows that were unguided or made no step.
        """
        still = torch.zeros((), device=self._placement.device)
        pulled = torch.stack([still if latent.guidance_gap is None else latent.guidance_gap for latent in latents])
        return np.asarray(pulled.cpu().numpy())

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Pixels:
        """Latents of one shape as pixels, uint8 (B, H, W, 3) on the device.

        Rounds as diffusers does. `preview` decodes the x0 estimate, with the preview decoder if there is one. Raises
        `OutOfMemory`.
        """
        vae = self._preview_decoder if preview else self._vae
        with memory_guard():
            scaled = _unscale(vae.config, torch.stack([_side(latent, preview) for latent in latents]))
            decoded = self._previewed if preview else self._decoded
            image = self._placement.parallel(decoded, scaled.to(vae.dtype)).float()
            levels = ((image * 0.5 + 0.5).clamp(0, 1) * 255).round()
            return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: float16 (B, C, h, w). `preview` takes the x0 estimate."""
        with memory_guard():
            stacked = torch.stack([_side(latent, preview) for latent in latents])
            return np.asarray(stacked.to(torch.float16).cpu().numpy())

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents from arrays of `dump`, for `decode`."""
        with memory_guard():
            stacked = torch.from_numpy(np.ascontiguousarray(arrays)).to(self._placement.device, torch.float32)
            return [TorchLatent(x, x) for x in stacked]

    def _denoise(self, rows: Sequence[StepRow], scaled: Any, t: Any) -> tuple[Any, Any]:
        """The denoiser's output, float32 (rows, C, h, w), and guidance gaps, (rows,).

        Rows with a negative are guided.
        """
        guided = [index for index, row in enumerate(rows) if row.negative is not None]
        texts = [row.prompt.state for row in rows] + [row.negative.state for row in rows if row.negative is not None]
        x = torch.cat([scaled, scaled[guided]]) if guided else scaled
        output = self._placement.parallel(
            self._denoiser,
            x.to(self._placement.dtype),
            torch.cat([t, t[guided]]) if guided else t,
            torch.stack([text.hidden for text in texts]),
            *(self._added(texts, scaled) if self._xl else ()),
        ).float()
        gaps = torch.zeros(len(rows), device=output.device)
        if not guided:
            return output, gaps
        positive, negative = output[: len(rows)], output[len(rows) :]
        scales = self._on_device(np.array([rows[index].guidance_scale for index in guided]))
        pull = positive[guided] - negative
        gaps[guided] = pull.square().mean(dim=(1, 2, 3)).sqrt()
        positive[guided] = negative + _column(scales) * pull
        return positive, gaps

    def _added(self, texts: Sequence[Any], scaled: Any) -> tuple[Any, Any]:
        """SDXL's further conditions: pooled texts, and uncropped sizes in pixels."""
        size = (scaled.shape[2] * self._factor, scaled.shape[3] * self._factor)
        sizes = torch.tensor([*size, 0, 0, *size], dtype=self._placement.dtype, device=scaled.device)
        return torch.stack([text.pooled for text in texts]), sizes.repeat(len(texts), 1)

    def _on_device(self, values: NDArray[np.float64]) -> Any:
        return torch.from_numpy(values.astype(np.float32)).to(self._placement.device)

    def _describe(self, pipe: Any, id: str, revision: str | None, defaults: Mapping[str, Any]) -> GeneratorInfo:
        height, width = _native_size(pipe.unet.config.sample_size, self._factor)
        turbo = "turbo" in id.lower()
        guidance = 0.0 if turbo else _GUIDANCE[type(pipe).__name__]
        return GeneratorInfo(
            id=id,
            revision=self._revision(pipe, revision),
            width=width,
            height=height,
            size_multiple=math.lcm(_SIZE_MULTIPLE, self._factor),
            max_size=2 * max(width, height),
            steps=int(defaults.get("steps", 1 if turbo else _STEPS)),
            guidance_scale=float(defaults.get("guidance_scale", guidance)),
            sampler=str(defaults.get("sampler", self._schedules.default)),
            samplers=self._schedules.samplers,
            token_limit=self._texts.token_limit,
            prediction_type=self._schedules.prediction_type,
            device=str(self._placement.device),
            dtype=self._placement.dtype_name,
        )

    def _revision(self, pipe: Any, known: str | None) -> str:
        """Fingerprint of all image-making parts and of a preview decoder.

        A calibration depends on the preview decoder too.
        """
        encoders = (pipe.text_encoder, getattr(pipe, "text_encoder_2", None))
        made = known or fingerprint(pipe.unet, pipe.vae, *filter(None, encoders))
        return made if self._preview_decoder is pipe.vae else f"{made}+{fingerprint(self._preview_decoder)}"


def _check_pipeline(pipe: Any) -> None:
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        raise ModelUnsupported("an inpainting or editing model: the denoiser needs more inputs than latents")
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise ModelUnsupported("a consistency model: the guidance scale is an input of the denoiser")


def _native_size(sample_size: Any, factor: int) -> tuple[int, int]:
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return height * factor, width * factor


def _column(values: Any) -> Any:
    return values[:, None, None, None]


def _denoiser_output(unet: Any, x: Any, t: Any, hidden: Any, *added: Any) -> Any:
    """The denoiser's output for batch entries, (B, C, h, w).

    `added` are SDXL's further conditions.
    """
    further = dict(zip(("text_embeds", "time_ids"), added, strict=True)) if added else None
    return unet(x, t, encoder_hidden_states=hidden, added_cond_kwargs=further, return_dict=False)[0]


def _mode(vae: Any, image: Any) -> Any:
    """The most likely latents; tiny autoencoders have no distribution."""
    encoded = vae.encode(image, return_dict=False)[0]
    return encoded if torch.is_tensor(encoded) else encoded.mode()


def _decoded(vae: Any, latents: Any) -> Any:
    return vae.decode(latents, return_dict=False)[0]


def _side(latent: TorchLatent, preview: bool) -> Any:
    return latent.x0 if preview and latent.x0 is not None else latent.x


def _unscale(config: Any, latents: Any) -> Any:
    """Latents as the decoder's input.

    The pipelines' arithmetic: no shift, but means per channel.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / config.scaling_factor
    mean, std = (torch.tensor(each, device=latents.device).view(1, -1, 1, 1) for each in (mean, std))
    return latents * std / config.scaling_factor + mean


def _scale(config: Any, latents: Any) -> Any:
    """The inverse of `_unscale`."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents * config.scaling_factor
    mean, std = (torch.tensor(each, device=latents.device).view(1, -1, 1, 1) for each in (mean, std))
    return (latents - mean) * config.scaling_factor / std


def _history(rows: Sequence[StepRow], x0: Any) -> Any:
    """The previous step's x0.

    Rows without one get this step's x0, which makes the step first order.
    """
    return torch.stack([own if row.latent.x0 is None else row.latent.x0 for row, own in zip(rows, x0, strict=True)])


def _ancestral_noise(rows: Sequence[StepRow], weights: NDArray[np.float64]) -> Any:
    """Noise by (seed, step) of every row, float32 on the CPU.

    Zeros where the weight is zero. torch's CPU generator uses 32 bits of a seed, so seed and step are hashed to 32
    bits.
    """
    noise = torch.zeros((len(rows), *rows[0].latent.x.shape))
    for index, row in enumerate(rows):
        if weights[index]:
            seed = int(np.random.SeedSequence((row.seed, row.step)).generate_state(1)[0])
            noise[index] = torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(seed))
    return noise
