"""Z-Image: texts of any length by Qwen3, guidance beyond the prompt."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from models.generators.families.base import NativeFamily


class ZImage(NativeFamily):
    """Z-Image and Z-Image-Turbo."""

    unguided: ClassVar[float] = 0.0
    traceable: ClassVar[bool] = False

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Qwen3's states (tokens, D), without padding."""
        return (self.encoded(text)[0][0],)

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """The denoiser takes lists of rows, and a time that grows.

        Its velocity points to the image.
        """
        rows = list(x.unsqueeze(2))
        output = self.denoiser(rows, (1000 - t) / 1000, list(texts[0]), return_dict=False)[0]
        return -torch.stack(output).squeeze(2)

    def combine(self, positive: Any, negative: Any, scale: Any) -> Any:
        """Counts from the prompt's prediction, not from the negative one."""
        return positive + scale * (positive - negative)
