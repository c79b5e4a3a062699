"""FLUX.1: texts by CLIP and T5, guidance as an input of the denoiser or none."""

from __future__ import annotations

from typing import Any

import torch

from models.generators.families.base import NativeFamily, pack, unpack
from models.protocols import Guidance


class Flux(NativeFamily):
    """FLUX.1-dev and -schnell."""

    @property
    def guidance(self) -> Guidance:
        """Schnell has no input for it."""
        return "embedded" if self.denoiser.config.guidance_embeds else "none"

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """T5's states (tokens, D), and CLIP's pooled state (P,)."""
        hidden, pooled, _ = self.encoded(text)
        return hidden[0], pooled[0]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w); the denoiser sees 4 C channels in packed cells."""
        return int(self.denoiser.config.in_channels) // 4, height // self.factor, width // self.factor

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:
        """Tokens carry their place; those of texts have none."""
        hidden, pooled = texts
        height, width = x.shape[2:]
        output = self.denoiser(
            pack(x),
            timestep=t / 1000,
            guidance=guidance if self.guidance == "embedded" else None,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=self.places(x),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def places(self, x: Any) -> Any:
        """Places of the packed cells (tokens, 3), the same for all rows."""
        height, width = x.shape[2:]
        return self.pipe._prepare_latent_image_ids(1, height // 2, width // 2, x.device, x.dtype)
