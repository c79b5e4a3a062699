"""SD3 and SD3.5: two CLIP text encoders and T5, latents without packing."""

from __future__ import annotations

from typing import Any

from models.generators.families.base import NativeFamily


class StableDiffusion3(NativeFamily):
    """SD3, SD3.5 medium, large and turbo."""

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """States of all encoders (tokens, D), and CLIP's pooled states (P,)."""
        hidden, _, pooled, _ = self.encoded(text)
        return hidden[0], pooled[0]

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """The velocity."""
        hidden, pooled = texts
        return self.denoiser(x, timestep=t, encoder_hidden_states=hidden, pooled_projections=pooled, return_dict=False)[
            0
        ]
