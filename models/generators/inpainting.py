"""Latent blending: outside its mask, a row keeps its source image.

After each step, the source is noised to the level of the next step.
Avrahami et al., Blended Latent Diffusion, 2022, as in diffusers' inpainting pipelines of models without a mask input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from models.protocols import StepRow
from models.protocols.image_inputs import Inpainting
from models.runtime.seeding import cpu_generator


class LatentBlender:
    """Blends the states after a step.

    Keeps each generation's source on the device while it is used.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._prepared: WeakKeyDictionary[Inpainting, tuple[Any, Any]] = WeakKeyDictionary()

    def __call__(self, rows: Sequence[StepRow], after: Any) -> Any:
        """States after the step of these rows, float32 (B, C, h, w).

        They are blended where rows have a mask. The source has the noise that the row began with, see `unit_noise`;
        after the last step it has none.
        """
        if all(row.inpainting is None for row in rows):
            return after
        return torch.stack([self._blended(row, x) for row, x in zip(rows, after, strict=False)])

    def _blended(self, row: StepRow, x: Any) -> Any:
        if row.inpainting is None:
            return x
        source, mask = self._on_device(row.inpainting)
        following = row.step + 1
        if following < row.schedule.calls:
            signal, scale = (float(weight) for weight in row.schedule.entry[following])
            source = signal * source + scale * unit_noise(source.shape, row.seed).to(self._device)
        return torch.where(mask, x, source)

    def _on_device(self, inpainting: Inpainting) -> tuple[Any, Any]:
        known = self._prepared.get(inpainting)
        if known is None:
            source = torch.from_numpy(inpainting.latents.astype(np.float32)).to(self._device)
            known = self._prepared[inpainting] = source, torch.from_numpy(inpainting.cells).to(self._device)
        return known


def unit_noise(shape: Any, seed: int) -> Any:
    """Unit noise of a candidate, float32 on the CPU.

    The stock pipelines draw the same for a CPU generator of this seed.
    """
    return torch.randn(tuple(shape), generator=cpu_generator(seed), dtype=torch.float32)
