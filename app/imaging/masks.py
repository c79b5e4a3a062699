"""Masks: the area of an image that is redrawn.

They are read from uploaded images (H, W, 4) of RGB and alpha. Masks are bool (H, W); True is redrawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Mask = NDArray[np.bool_]

_HALF = 128
_STRIP_ROWS = 64
_LUMA = np.array([299, 587, 114], np.uint32)


def white_area(image: NDArray[np.uint8]) -> Mask:
    """Pixels at least half as bright as opaque white."""
    area = np.empty(image.shape[:2], np.bool_)
    for top in range(0, len(image), _STRIP_ROWS):  # a wider copy of the whole image may be large
        strip = image[top : top + _STRIP_ROWS]
        area[top : top + _STRIP_ROWS] = strip[..., :3] @ _LUMA // 1000 * strip[..., 3] >= _HALF * 255
    return area


def transparent_area(image: NDArray[np.uint8]) -> Mask:
    """Fully transparent pixels."""
    return np.asarray(image[..., 3] == 0)


def painted_area(image: NDArray[np.uint8]) -> Mask:
    """Opaque pixels of an image with transparency, else white ones, as in web UIs."""
    opaque = image[..., 3] >= _HALF
    return white_area(image) if opaque.all() else np.asarray(opaque)


def stretch_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Stretch a mask to `size` (width, height); each pixel takes the nearest value."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size[::-1], mask.shape, strict=True))
    return np.asarray(mask[rows[:, None], columns])


def crop_mask_to_fill(mask: Mask, size: tuple[int, int]) -> Mask:
    """Fit a mask to `size` (width, height) as `crop_to_fill` does its image.

    A pixel that is masked in part is masked.
    """
    if mask.shape[::-1] == size:
        return mask
    return np.array(ImageOps.fit(_grey(mask), size, Image.Resampling.BOX)) > 0


def place_in_uncropped(mask: Mask, size: tuple[int, int]) -> Mask:
    """The inverse of `crop_mask_to_fill`.

    The mask belongs to an image that `crop_to_fill` made of one of `size` (width, height); the result, to that one.
    """
    if mask.shape[::-1] == size:
        return mask
    scale = max(mask.shape[1] / size[0], mask.shape[0] / size[1])
    width, height = (min(side, max(1, round(seen / scale))) for side, seen in zip(size, mask.shape[::-1], strict=True))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    whole = np.zeros(size[::-1], np.bool_)
    scaled = _grey(mask).resize((width, height), Image.Resampling.BOX)
    whole[top : top + height, left : left + width] = np.array(scaled) > 0
    return whole


def _grey(mask: Mask) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)
