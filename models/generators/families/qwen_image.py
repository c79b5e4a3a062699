"""Qwen-Image: texts of any length, guidance that keeps the length of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from models.errors import ModelUnsupported
from models.generators.families.base import FilmFamily, pack, unpack
from models.runtime.placement import DevicePlacement


class QwenImage(FilmFamily):
    """Qwen-Image with classifier-free guidance."""

    guidance_argument: ClassVar[str] = "true_cfg_scale"

    def __init__(
        self, pipe: Any, placement: DevicePlacement, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        if pipe.transformer.config.guidance_embeds:
            raise ModelUnsupported("a guidance-distilled Qwen-Image needs FRONTRUNNER_GENERATOR_MODE=gate")
        super().__init__(pipe, placement, arguments, defaults)

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """States (tokens, D), without padding."""
        return (self.encoded(text)[0][0],)

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """All rows have one size."""
        height, width = x.shape[2:]
        output = self.denoiser(
            pack(x),
            timestep=t / 1000,
            encoder_hidden_states=texts[0],
            img_shapes=[[(1, int(height) // 2, int(width) // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def combine(self, positive: Any, negative: Any, scale: Any) -> Any:
        """Each token keeps the length of the prompt's prediction."""
        height, width = positive.shape[2:]
        wanted, combined = pack(positive), pack(super().combine(positive, negative, scale))
        longer = wanted.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True)
        return unpack(combined * longer, height, width)
