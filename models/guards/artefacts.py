"""Artefacts by image statistics: blank, saturated, noisy or tiled images.

What is unusual depends on the generator: `fit_limits` measures its own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.protocols.guards import MIN_CONTRAST, ArtefactLimits

Array = NDArray[np.float32]

LONGEST_SIDE = 256
"""Larger images are averaged down to it; noise is measured in parts of them."""

PART, PARTS = 64, 4
"""Side of a part, and parts a side."""

BURNT_CHROMA = 230
"""Least difference between the channels of a burnt pixel, in levels of 255."""

QUANTILE = 0.995
"""Quantile of the measured images from which a limit is extrapolated."""

MARGIN = 1.5
"""Distance of a limit from the median, relative to that of the quantile."""

REASONS = {"contrast": "blank", "saturation": "saturated", "noise": "noisy", "tiling": "tiled"}
"""What an image is called, by the statistic that is outside its limit."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of an image.

    `contrast` is the standard deviation of the luma, in levels of 255. `saturation` is the share of burnt pixels, in
    [0, 1]. `noise` is the median absolute response to a kernel that ignores edges and slopes (Immerkaer 1996), as a
    standard deviation in levels. `tiling` is the largest autocorrelation of the details at a lag of at least an
    eighth of the side, in [-1, 1].
    """

    contrast: float
    saturation: float
    noise: float
    tiling: float


def measure(image: NDArray[np.uint8], limits: ArtefactLimits | None = None) -> Statistics:
    """Measure an image (H, W, 3). Takes about half a millisecond for 64 x 64 pixels.

    With `limits`, statistics without a limit are left at 0.
    """
    small = _averaged(image)
    small_luma = _luma(small)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return Statistics(
        contrast=float(small_luma.std()),
        saturation=float((chroma >= BURNT_CHROMA).mean()),
        noise=_noise(image) if limits is None or limits.noise is not None else 0.0,
        tiling=_tiling(small_luma) if limits is None or limits.tiling is not None else 0.0,
    )


def reasons(found: Statistics, limits: ArtefactLimits) -> tuple[str, ...]:
    """Return what is wrong with an image of these statistics; empty for a usual one."""
    wrong = ["blank"] if found.contrast < limits.contrast else []
    for name in ("saturation", "noise", "tiling"):
        limit = getattr(limits, name)
        if limit is not None and getattr(found, name) > limit:
            wrong.append(REASONS[name])
    return tuple(wrong)


def fit_limits(measured: Sequence[Statistics]) -> ArtefactLimits:
    """Return limits that nearly all of these images meet.

    They should be random images of one generator, of many prompts. Raises ValueError without images.
    """
    if not measured:
        raise ValueError("the limits of artefacts need at least one image")
    rows = np.asarray([astuple(each) for each in measured], np.float64)
    middle, low, high = np.median(rows, axis=0), *np.quantile(rows, (1 - QUANTILE, QUANTILE), axis=0)
    least, most = middle - MARGIN * (middle - low), middle + MARGIN * (high - middle)
    named = {f.name: round(float(value), 4) for f, value in zip(fields(Statistics), most, strict=True)}
    return ArtefactLimits(**{**named, "contrast": max(MIN_CONTRAST, round(float(least[0]), 4))})


def _luma(image: NDArray[np.uint8]) -> Array:
    """Luma (..., H, W) of sRGB by the weights of BT.601, in levels of 255."""
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue, np.float32)


def _averaged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, averaged in square blocks to sides of at most `LONGEST_SIDE`."""
    stride = max(1, max(image.shape[:2]) // (4 * LONGEST_SIDE))
    image = image[::stride, ::stride]  # a whole copy of a large upload would cost hundreds of megabytes
    block = -(-max(image.shape[:2]) // LONGEST_SIDE)
    return image if block == 1 else np.asarray(Image.fromarray(image).reduce(block))


def _sampled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Parts of a large image at its own resolution, evenly spaced: (B, h, w, 3)."""
    sides = image.shape[:2]
    starts = [
        np.linspace(0, side - PART, PARTS).astype(int) if side > LONGEST_SIDE else np.array([0]) for side in sides
    ]
    sizes = [PART if side > LONGEST_SIDE else side for side in sides]
    return np.stack([image[top : top + sizes[0], left : left + sizes[1]] for top in starts[0] for left in starts[1]])


def _noise(image: NDArray[np.uint8]) -> float:
    if min(image.shape[:2]) < 3:
        return 0.0
    luma = _luma(_sampled(image))
    rows = luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]
    response = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return float(np.median(np.abs(response))) * 1.4826 / 6


def _tiling(luma: Array) -> float:
    """The largest autocorrelation at a distance, by the Fourier transform."""
    if min(luma.shape) < 16:
        return 0.0
    details = luma - (np.roll(luma, 1, 0) + np.roll(luma, -1, 0) + np.roll(luma, 1, 1) + np.roll(luma, -1, 1)) / 4
    details[[0, -1]] = 0
    details[:, [0, -1]] = 0
    power = np.abs(np.fft.rfft2(details)) ** 2
    correlation = np.fft.irfft2(power, s=details.shape)
    whole = float(correlation[0, 0])
    if whole < details.size:  # no details: less than a level
        return 0.0
    down, across = (np.minimum(np.arange(side), side - np.arange(side)) for side in details.shape)
    near = (down[:, None] < details.shape[0] // 8) & (across[None] < details.shape[1] // 8)
    return float(np.where(near, -np.inf, correlation).max()) / whole
