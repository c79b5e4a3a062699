"""Images that steer sampling, on the host. NumPy only.

Owns the geometry of a mask in latent cells, and the pasting of the source's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATHER_CELLS = 0.5
"""Width of the mixed border inside a mask, in latent cells."""


@dataclass(frozen=True, eq=False)
class Inpainting:
    """An image of which only a part is redrawn.

    Compared by identity, so that prepared forms can be cached. `source` is uint8 (H, W, 3), `latents` the same image as
    float16 (C, h, w) from `dump` or `encode_image`. `mask` is bool (H, W); True is redrawn.
    """

    source: NDArray[np.uint8]
    latents: NDArray[np.float16]
    mask: NDArray[np.bool_]

    @cached_property
    def cells(self) -> NDArray[np.bool_]:
        """Latent cells (h, w) with at least one masked pixel."""
        (height, width), (rows, columns) = self.mask.shape, self.latents.shape[-2:]
        cells = self.mask.reshape(rows, height // rows, columns, width // columns)
        return np.asarray(cells.any(axis=(1, 3)))

    def paste(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A sampled image (H, W, 3) with the source's own pixels outside the mask.

        Inside, within `FEATHER_CELLS` of the border, the two are mixed, which hides the seam.
        """
        place, share = self._shares
        pasted = self.source.copy()
        source = self.source[place].astype(np.float32)
        pasted[place] = np.rint(source + share * (image[place] - source))
        return pasted

    @property
    def _cell(self) -> float:
        """Height of a latent cell in pixels.

        It is 1 for latents of whole images, which are files (1, 1, length).
        """
        return 1.0 if self.latents.shape[:2] == (1, 1) else self.mask.shape[0] / int(self.latents.shape[-2])

    @cached_property
    def _shares(self) -> tuple[Any, NDArray[np.float32]]:
        """The mask's bounding box, and in it the share of a sampled image.

        The share is float32 (h, w, 1).
        """
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        feather = max(1, round(FEATHER_CELLS * self._cell))
        depth, inner = self.mask.astype(np.float32), self.mask
        for _ in range(feather):
            inner = _eroded(inner)
            depth += inner
        return place, np.asarray(depth[place][..., None] / (feather + 1), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """An image uint8 (H, W, 3) in the sampled size, which the composition follows.

    `kind` is one of `GeneratorInfo.controls`. `weight` 0 has no effect, 1 is the usual one.
    """

    kind: str
    image: NDArray[np.uint8]
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageInputs:
    """The images that all rows of a generation share. Compared by identity."""

    inpainting: Inpainting | None = None
    controls: tuple[Control, ...] = ()

    @property
    def effective(self) -> tuple[Control, ...]:
        """The control images with a weight."""
        return tuple(control for control in self.controls if control.weight)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its outermost pixels; the edge of the image is no border."""
    wide = np.pad(mask, 1, constant_values=True)
    rows = wide[:-2] & wide[1:-1] & wide[2:]
    return np.asarray(rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:])
