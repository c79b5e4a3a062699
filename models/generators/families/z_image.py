"""Z-Image: texts of any length by Qwen3, guidance beyond the prompt."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from models.generators.families.base import NativeFamily

_TOKENS = 32
"""Texts are padded to a multiple of so many tokens (`SEQ_MULTI_OF` in diffusers)."""


class ZImage(NativeFamily):
    """Z-Image and Z-Image-Turbo."""

    unguided: ClassVar[float] = 0.0
    traceable: ClassVar[bool] = False

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Qwen3's states (tokens, D), and their number.

        The denoiser pads each text to a multiple of `_TOKENS`. So does this, and texts of one multiple share a call.
        """
        hidden = self.encoded(text)[0][0]
        tokens = len(hidden)
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, -tokens % _TOKENS))
        return padded, torch.tensor(tokens, device=hidden.device)

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """The denoiser takes lists of rows, and a time that grows.

        Its velocity points to the image.
        """
        read = [hidden[:tokens] for hidden, tokens in zip(texts[0], texts[1].tolist(), strict=True)]
        output = self.denoiser(list(x.unsqueeze(2)), (1000 - t) / 1000, read, return_dict=False)[0]
        return -torch.stack(output).squeeze(2)

    def combine(self, positive: Any, negative: Any, scale: Any) -> Any:
        """Counts from the prompt's prediction, not from the negative one."""
        return positive + scale * (positive - negative)
