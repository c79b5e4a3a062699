"""A NumPy upscaler for tests and demonstrations: it repeats pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.protocols.upscaling import UpscalerInfo


class FakeUpscaler:
    """Repeats every pixel `factor` times, see `models.protocols.upscaling.Upscaler`."""

    def __init__(self, factor: int = 4, tile: int = 64) -> None:
        self._info = UpscalerInfo("fake-upscaler", f"repeat-{factor}", "nearest", factor, tile, "cpu", "uint8")

    @property
    def info(self) -> UpscalerInfo:
        """Name and limits; constant."""
        return self._info

    def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:  # noqa: ARG002
        """One image (H, W, 3), enlarged."""
        return np.repeat(np.repeat(image, self._info.factor, axis=0), self._info.factor, axis=1)
