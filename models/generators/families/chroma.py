"""Chroma: FLUX.1's latents, T5 texts with a mask, classifier-free guidance."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from models.generators.families.base import pack, unpack
from models.generators.families.flux import Flux
from models.protocols import Guidance


class Chroma(Flux):
    """Chroma1."""

    traceable: ClassVar[bool] = False

    @property
    def guidance(self) -> Guidance:
        """Two predictions."""
        return "cfg"

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Padded states (tokens, D) and their mask (tokens,)."""
        hidden, _, mask, *_ = self.encoded(text)
        return hidden[0], mask[0]

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """The mask covers texts and image."""
        hidden, mask = texts
        height, width = x.shape[2:]
        tokens = pack(x)
        seen = torch.ones_like(tokens[..., 0], dtype=mask.dtype)
        output = self.denoiser(
            tokens,
            timestep=t / 1000,
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=self.places(x),
            attention_mask=torch.cat([mask, seen], dim=1),
            return_dict=False,
        )[0]
        return unpack(output, height, width)
