"""Tiles of large images: where they are cut, and how enlarged ones are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 32
"""Pixels that neighbouring tiles share before they are enlarged.

An enlarged tile is unreliable near its border. Across an overlap, the first quarter is of the earlier tile, the last
one of the later tile, and the half between fades from one to the other.
"""


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image, in its pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of `image` (H, W, 3)."""
        return image[self.top : self.bottom, self.left : self.right]


def cut(height: int, width: int, side: int) -> Iterator[Tile]:
    """Yield tiles of at most `side` pixels a side, in reading order.

    They overlap by at least `OVERLAP`, so `side` must be more than twice that.
    """
    for top, bottom in _spans(height, side):
        for left, right in _spans(width, side):
            yield Tile(top, left, bottom, right)


def paste(canvas: NDArray[np.uint8], tile: Tile, enlarged: NDArray[np.uint8], factor: int) -> None:
    """Put an enlarged tile on the enlarged image, faded into the earlier tiles."""
    height, width = canvas.shape[0] // factor, canvas.shape[1] // factor
    rows = _share(tile.top, tile.bottom, height, factor)
    columns = _share(tile.left, tile.right, width, factor)
    place = canvas[tile.top * factor : tile.bottom * factor, tile.left * factor : tile.right * factor]
    mixed = place + (rows[:, None] * columns[None, :])[:, :, None] * (enlarged.astype(np.float32) - place)
    place[:] = np.rint(mixed).astype(np.uint8)


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    count = -(-(length - OVERLAP) // (side - OVERLAP))
    starts = np.linspace(0, length - side, count).round().astype(int)
    return [(int(start), int(start) + side) for start in starts]


def _share(start: int, stop: int, length: int, factor: int) -> NDArray[np.float32]:
    """A tile's share along one side: 1 at the image's border, see `OVERLAP` elsewhere."""
    share, quarter = np.ones((stop - start) * factor, np.float32), OVERLAP * factor // 4
    if start > 0:
        share = np.asarray(np.clip((np.arange(len(share)) + 0.5 - quarter) / (2 * quarter), 0, 1), np.float32)
    if stop < length:
        share[-quarter:] = 0
    return share
