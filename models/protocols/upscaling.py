"""Protocol of upscalers: models that enlarge finished images. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class UpscalerInfo:
    """An upscaler's name and limits.

    It enlarges both sides by `factor`, at least 2. `tile` is the longest side of an image that one call takes, in
    pixels; 0 means any. `revision` changes when the weights do.
    """

    id: str
    revision: str
    architecture: str
    factor: int
    tile: int
    device: str
    dtype: str


class Upscaler(Protocol):
    """A model that enlarges one image, or one tile of it, by a fixed factor."""

    @property
    def info(self) -> UpscalerInfo:
        """Name and limits; constant."""
        ...

    def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), sRGB, as (factor * H, factor * W, 3), in host memory.

        `prompt` and `seed` are for diffusion upscalers; others ignore them. Equal arguments give equal pixels. Raises
        `OutOfMemory`.
        """
        ...
