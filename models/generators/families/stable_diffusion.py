"""Stable Diffusion 1.x, 2.x, Turbo, LCM and SDXL: a UNet and CLIP texts.

They have a choice of samplers. Packs have a text encoder of their own. Safety checker and watermark are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from models.errors import ModelUnsupported
from models.generators.families.base import NativeFamily, Schedules
from models.generators.samplers import DiffusersSamplers
from models.protocols import Guidance, Truncation
from models.runtime import tokenization
from models.runtime.placement import DevicePlacement

_STEPS = 30
_CONSISTENCY = 4, 8.5
"""Default steps and guidance scale of consistency models."""


class StableDiffusion(NativeFamily):
    """One CLIP text encoder."""

    default_guidance = 7.5
    cells = 1

    def __init__(
        self, pipe: Any, placement: DevicePlacement, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
            raise ModelUnsupported("an inpainting or editing model: the denoiser needs more inputs than latents")
        super().__init__(pipe, placement, arguments, defaults)
        self._guidance_dimensions = pipe.unet.config.time_cond_proj_dim

    @property
    def guidance(self) -> Guidance:
        """The scale is an input of consistency models."""
        return "cfg" if self._guidance_dimensions is None else "embedded"

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    @property
    def token_limit(self) -> int:
        """The first tokenizer's limit."""
        return int(self.tokenizers[0].model_max_length)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers, each with its own text encoder."""
        return [self.pipe.tokenizer]

    @property
    def modules(self) -> list[Any]:
        """UNet, autoencoder and text encoders."""
        encoders = (self.pipe.text_encoder, getattr(self.pipe, "text_encoder_2", None))
        return [self.pipe.unet, self.pipe.vae, *filter(None, encoders)]

    def steps_and_guidance(self, id: str) -> tuple[int, float]:
        """One unguided step for Turbo models, four for consistency models."""
        if "turbo" in id.lower():
            return 1, 0.0
        return _CONSISTENCY if self.guidance == "embedded" else (_STEPS, self.default_guidance)

    @cached_property
    def schedules(self) -> Schedules:
        """Tables of the samplers that the scheduler's configuration allows."""
        return DiffusersSamplers(self.pipe.scheduler)

    def prepare(self, module: Any) -> None:
        """Convolutions are faster on channels-last weights."""
        module.to(memory_format=torch.channels_last).requires_grad_(False)

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Hidden states (tokens, D) for cross-attention."""
        return (self.encoded(text)[0][0],)

    def encoded(self, text: str, **changes: Any) -> Any:
        """`encode_prompt` for one text; packs have no settings for it."""
        return self.pipe.encode_prompt(
            prompt=text,
            device=self.placement.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **changes,
        )

    def truncation(self, text: str) -> Truncation | None:
        """What the first tokenizer that cuts the text drops."""
        cuts = (tokenization.transformers_truncation(each, text, self.token_limit) for each in self.tokenizers)
        return next((cut for cut in cuts if cut), None)

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """Noise, velocity or image, as the model predicts."""
        return self.unet(x, t, guidance, texts[0])

    def unet(self, x: Any, t: Any, guidance: Any, hidden: Any, **further: Any) -> Any:
        """The UNet's prediction; the scale is an input of consistency models only."""
        if self._guidance_dimensions is not None:
            scales = self.pipe.get_guidance_scale_embedding(guidance - 1.0, embedding_dim=self._guidance_dimensions)
            further["timestep_cond"] = scales.to(x.dtype)
        return self.denoiser(x, t, encoder_hidden_states=hidden, return_dict=False, **further)[0]

    def to_decoder(self, vae: Any, x: Any) -> Any:
        """No shift, but means per channel in some models, as in the pipelines."""
        mean, std = _statistics(vae.config, x.device)
        return x / vae.config.scaling_factor if mean is None else x * std / vae.config.scaling_factor + mean

    def from_encoder(self, z: Any) -> Any:
        """The inverse of `to_decoder`."""
        config = self.pipe.vae.config
        mean, std = _statistics(config, z.device)
        return z * config.scaling_factor if mean is None else (z - mean) * config.scaling_factor / std


class StableDiffusionXL(StableDiffusion):
    """Two CLIP text encoders, a pooled text, and sizes as inputs."""

    default_guidance = 5.0

    @property
    def tokenizers(self) -> list[Any]:
        """Both."""
        return [self.pipe.tokenizer, self.pipe.tokenizer_2]

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Hidden states (tokens, D), and the pooled text (P,).

        Those of the empty text may be zeros.
        """
        encoded = self.encoded(text)
        hidden, pooled = encoded[0][0], encoded[2][0]
        if not text and self.pipe.config.force_zeros_for_empty_prompt:
            return torch.zeros_like(hidden), torch.zeros_like(pooled)
        return hidden, pooled

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """The sizes are those of an uncropped image."""
        hidden, pooled = texts
        size = x.shape[2] * self.factor, x.shape[3] * self.factor
        sizes = torch.tensor([*size, 0, 0, *size], dtype=self.placement.dtype, device=x.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(x.shape[0], -1)}
        return self.unet(x, t, guidance, hidden, added_cond_kwargs=added)


def _statistics(config: Any, device: Any) -> tuple[Any, Any]:
    """Mean and standard deviation per channel; None where the autoencoder has none."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return None, None
    return tuple(torch.tensor(each, device=device).view(1, -1, 1, 1) for each in (mean, std))
