"""FLUX.2: texts by one language model, normalised latents."""

from __future__ import annotations

from typing import Any

import torch

from models.generators.families.base import NativeFamily
from models.protocols import Guidance


class Flux2(NativeFamily):
    """FLUX.2-dev, whose denoiser takes the guidance scale."""

    @property
    def guidance(self) -> Guidance:
        """An input of the denoiser."""
        return "embedded"

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """States of several layers (tokens, D)."""
        return (self.encoded(text)[0][0],)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w), where a cell is 2 x 2 cells of the autoencoder."""
        return int(self.denoiser.config.in_channels), height // self.factor // 2, width // self.factor // 2

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """Places are the same for all rows."""
        (hidden,) = texts
        output = self.denoiser(
            hidden_states=x.flatten(2).transpose(1, 2),
            timestep=t / 1000,
            guidance=guidance if self.guidance == "embedded" else None,
            encoder_hidden_states=hidden,
            txt_ids=self.pipe._prepare_text_ids(hidden[:1]).to(x.device),
            img_ids=self.pipe._prepare_latent_ids(x[:1]).to(x.device),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(x.shape)

    def to_decoder(self, vae: Any, x: Any) -> Any:  # noqa: ARG002
        """The statistics are those of the model's autoencoder, for a preview decoder too."""
        mean, std = self._statistics()
        return self.pipe._unpatchify_latents(x * std + mean)

    def from_encoder(self, z: Any) -> Any:
        """The inverse of `to_decoder`."""
        mean, std = self._statistics()
        return (self.pipe._patchify_latents(z) - mean) / std

    def _statistics(self) -> tuple[Any, Any]:
        vae = self.pipe.vae
        variance = vae.bn.running_var.float() + vae.config.batch_norm_eps
        return vae.bn.running_mean.float().view(1, -1, 1, 1), torch.sqrt(variance).view(1, -1, 1, 1)


class Flux2Klein(Flux2):
    """FLUX.2-klein; its negative prompt is always empty."""

    @property
    def guidance(self) -> Guidance:
        """None in distilled models."""
        return "none" if self.pipe.config.is_distilled else "cfg"

    @property
    def negative_prompts(self) -> bool:
        """The pipeline takes none."""
        return False
