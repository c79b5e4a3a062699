"""Artefacts by image statistics: blank, saturated, noisy or tiled images.

What is unusual depends on the generator: `fit_limits` measures its own images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.protocols.guards import MIN_CONTRAST, ArtefactLimits

Array = NDArray[np.float32]

LONGEST_SIDE = 256
"""Larger images are averaged down to it; noise is measured in parts of them."""

TOGETHER_PIXELS = 2**18
"""Maximum pixels of images that are measured together."""

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
    """Measure an image (H, W, 3). See `measure_all`."""
    return measure_all([image], limits)[0]


def measure_all(images: Sequence[NDArray[np.uint8]], limits: ArtefactLimits | None = None) -> list[Statistics]:
    """Measure images (H, W, 3), in order: small ones of one shape together.

    Takes about a quarter of a millisecond for 64 x 64 pixels. With `limits`, statistics without a limit are left at 0.
    """
    places = defaultdict[tuple[int, ...], list[int]](list)
    for place, image in enumerate(images):
        places[image.shape].append(place)
    found = dict[int, Statistics]()
    for (height, width, _), alike in places.items():
        together = max(1, TOGETHER_PIXELS // (height * width))
        for start in range(0, len(alike), together):
            part = alike[start : start + together]
            found |= zip(part, _measured([images[place] for place in part], limits), strict=True)
    return [found[place] for place in range(len(images))]


def _measured(images: Sequence[NDArray[np.uint8]], limits: ArtefactLimits | None) -> list[Statistics]:
    """Measure images of one shape."""
    small = np.stack([_averaged(image) for image in images])
    luma = _luma(small)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    nothing = [0.0] * len(images)
    rows = zip(
        _flat(luma).std(axis=1).tolist(),
        _flat(chroma >= BURNT_CHROMA).mean(axis=1).tolist(),
        _noise(images) if limits is None or limits.noise is not None else nothing,
        _tiling(luma) if limits is None or limits.tiling is not None else nothing,
        strict=True,
    )
    return [Statistics(*row) for row in rows]


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """The values of each image in one row."""
    return values.reshape(len(values), -1)


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


def _noise(images: Sequence[NDArray[np.uint8]]) -> list[float]:
    if min(images[0].shape[:2]) < 3:
        return [0.0] * len(images)
    luma = _luma(np.stack([_sampled(image) for image in images]))
    rows = luma[..., :-2, :] - 2 * luma[..., 1:-1, :] + luma[..., 2:, :]
    response = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    medians: list[float] = np.median(_flat(np.abs(response)), axis=1).tolist()
    return [median * 1.4826 / 6 for median in medians]


def _tiling(luma: Array) -> list[float]:
    """The largest autocorrelations at a distance, by the Fourier transform: (B, H, W)."""
    height, width = luma.shape[1:]
    if min(height, width) < 16:
        return [0.0] * len(luma)
    details = np.zeros_like(luma)
    beside = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    details[:, 1:-1, 1:-1] = luma[:, 1:-1, 1:-1] - beside / 4
    spectrum = np.fft.rfft2(details)
    correlation = np.fft.irfft2(spectrum.real**2 + spectrum.imag**2, s=(height, width))
    wholes: list[float] = correlation[:, 0, 0].tolist()
    correlation[:, _near(height, width)] = -np.inf
    largest: list[float] = _flat(correlation).max(axis=1).tolist()
    # without details, which are less than a level, there is nothing to repeat
    return [far / whole if whole >= height * width else 0.0 for far, whole in zip(largest, wholes, strict=True)]


@lru_cache(64)
def _near(height: int, width: int) -> NDArray[np.bool_]:
    """The lags (H, W) of less than an eighth of each side."""
    down, across = (np.minimum(np.arange(side), side - np.arange(side)) for side in (height, width))
    return (down[:, None] < height // 8) & (across[None] < width // 8)
