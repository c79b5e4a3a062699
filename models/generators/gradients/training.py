"""The denoiser of a native loop with its inputs, for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from models.generators.families.base import NativeFamily
from models.protocols import Conditioning, Latent
from models.runtime.placement import DevicePlacement


class NativeTrainable:
    """Predictions of a denoiser with gradients, in the terms of its schedules.

    Call it outside of inference mode.
    """

    def __init__(self, family: NativeFamily, placement: DevicePlacement) -> None:
        self.placement = placement
        self._family = family

    @property
    def pipe(self) -> Any:
        """The pipeline of diffusers."""
        return self._family.pipe

    @property
    def denoiser(self) -> Any:
        """The module that adapters change."""
        return self._family.denoiser

    @property
    def part(self) -> str:
        """The denoiser's name in adapter files: `unet` or `transformer`."""
        return next(name for name in ("unet", "transformer") if getattr(self.pipe, name, None) is self.denoiser)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a latent at an image size in pixels."""
        return self._family.latent_shape(width, height)

    def clean(self, latents: Sequence[Latent]) -> Any:
        """Finished latents as a tensor on the device, float32 (B, C, h, w)."""
        return torch.stack([latent.x for latent in latents])

    def predict(
        self,
        x: Any,
        t: Any,
        guidance: Any,
        texts: Sequence[Conditioning],
        negatives: Sequence[Conditioning | None] = (),
    ) -> Any:
        """Predictions that sampling would use, float32 (B, C, h, w).

        `x` are denoiser inputs of that shape, `t` (B,) times of a schedule, `guidance` (B,) the scales. Rows with a
        negative text are guided away from it by the family's formula. Rows whose texts have equal shapes share a call.
        """
        guided = [row for row, negative in enumerate(negatives) if negative is not None]
        places = [*range(len(texts)), *guided]
        every = [*texts, *(negative for negative in negatives if negative is not None)]
        output = self._grouped(x[places], t[places], guidance[places], every)
        if not guided:
            return output
        positive, negative = output[: len(texts)].clone(), output[len(texts) :]
        scale = guidance[guided][:, None, None, None]
        positive[guided] = self._family.combine(positive[guided], negative, scale)
        return positive

    def _grouped(self, x: Any, t: Any, guidance: Any, texts: Sequence[Conditioning]) -> Any:
        groups: dict[Any, list[int]] = {}
        for row, text in enumerate(texts):
            groups.setdefault(tuple(each.shape for each in text.state), []).append(row)
        parts = [self._predict(rows, x, t, guidance, texts) for rows in groups.values()]
        order = [row for rows in groups.values() for row in rows]
        places = torch.tensor(sorted(range(len(order)), key=order.__getitem__), device=x.device)
        return torch.cat(parts)[places]

    def _predict(self, rows: list[int], x: Any, t: Any, guidance: Any, texts: Sequence[Conditioning]) -> Any:
        stacked = [torch.stack(each) for each in zip(*(texts[row].state for row in rows), strict=True)]
        inputs = x[rows].to(self.placement.dtype)
        return self._family.denoise(inputs, t[rows], guidance[rows], *stacked).float()
