"""Images as input of a CLIP image tower, resized as bytes on the device.

Owns the geometry and the resampling. Both follow open_clip's transform to within one grey level. Pillow resamples in
two passes and rounds to bytes after each, and so does this module. Opens no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from models.errors import ModelUnsupported

_MODES = ("squash", "shortest", "longest")
_WEIGHT_BITS = 22
_MAX_SUMS = 2**22
_INTERPOLATIONS = {"bicubic": vision.InterpolationMode.BICUBIC, "bilinear": vision.InterpolationMode.BILINEAR}


class ImageTransform:
    """open_clip's inference transform for batches of one size."""

    def __init__(self, config: Mapping[str, Any], device: Any) -> None:
        """Take a model's preprocess configuration.

        Raises ModelUnsupported for a mode that open_clip does not have.
        """
        size = config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._mode, self.interpolation = str(config["resize_mode"]), str(config["interpolation"])
        if self._mode not in _MODES or self.interpolation not in _INTERPOLATIONS:
            raise ModelUnsupported(f"unsupported resize mode {self._mode!r} or interpolation {self.interpolation!r}")
        if self._mode == "shortest" and self.size[0] != self.size[1]:
            self.interpolation = "bicubic"  # open_clip ignores the setting here
        self._fill = int(config["fill_color"])
        self._mean = torch.tensor(config["mean"], device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(config["std"], device=device).view(1, -1, 1, 1)

    def __call__(self, pixels: Any) -> Any:
        """uint8 (B, H, W, 3) on the device to normalised float32 (B, 3, h, w)."""
        return self.normalised(self.resize(pixels.permute(0, 3, 1, 2)).float())

    def normalised(self, images: Any) -> Any:
        """float32 (B, 3, h, w) in 0..255 with the tower's mean and deviation."""
        return (images / 255 - self._mean) / self._std

    def resize(self, images: Any) -> Any:
        """uint8 (B, 3, H, W) to uint8 of the tower's size.

        Resampled, then cropped or padded at the centre.
        """
        before, after = tuple(images.shape[2:]), self.target(*images.shape[2:])
        if before != after:
            order = rows_first(before, after, self.interpolation, self.size)
            images = resample(images, after, self.interpolation, order, self.size)
        return self.fit(images)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that an image is resampled to, before `fit`."""
        rows, columns = self.size
        if self._mode == "squash":
            return rows, columns
        if self._mode == "shortest" and rows == columns:
            short = min(height, width)
            return int(rows * height / short), int(rows * width / short)
        ratio = (max if self._mode == "longest" else min)(height / rows, width / columns)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def fit(self, images: Any) -> Any:
        """Crop or pad (B, 3, H, W) to the tower's size at the centre."""
        height, width = images.shape[2:]
        missing = (max(self.size[1] - width, 0), max(self.size[0] - height, 0))
        if any(missing):
            left, top = missing[0] // 2, missing[1] // 2
            images = torch.nn.functional.pad(images, (left, missing[0] - left, top, missing[1] - top), value=self._fill)
        return vision.center_crop(images, list(self.size))


def resample(images: Any, size: tuple[int, int], interpolation: str, rows_first: bool, crop: tuple[int, int]) -> Any:
    """Antialiased resampling of uint8 (B, C, H, W) in two passes, on any device.

    The result of the first pass is bytes. Only the middle of `size` is returned, at most `crop`; the rest is not
    computed where that could be large. Shrinking on the CPU uses torch's fast kernels for bytes, which are accurate
    enough. All else equals Pillow's arithmetic to the bit.
    """
    height, width = images.shape[2:]
    if images.device.type == "cpu" and size[0] <= height and size[1] <= width:
        small = images.mT if rows_first else images
        order = list(size[::-1] if rows_first else size)
        small = vision.resize(small, order, interpolation=_INTERPOLATIONS[interpolation], antialias=True)
        middle = [min(c, s) for c, s in zip(crop, size, strict=True)]
        return vision.center_crop(small.mT if rows_first else small, middle)
    both = [_taps(*sides, interpolation) for sides in zip((height, width), size, crop, strict=True)]
    for axis, taps in zip((2, 3), both, strict=True):
        images = images.narrow(axis, taps.start, taps.length)
    for place in (0, 1) if rows_first else (1, 0):
        images = _resample_axis(images, 2 + place, both[place])
    return images


@dataclass(frozen=True, slots=True)
class _Taps:
    """Inputs and weights of one resampling pass.

    The pass reads the inputs `start` to `start + length`. Tap t of output i is input `places[t, i]` with weight
    `weights[t, i]`. Weights are whole float64 numbers with a sum of about 2**22 per output.
    """

    start: int
    length: int
    places: Any
    weights: Any


@lru_cache(64)
def _taps(before: int, after: int, crop: int, interpolation: str) -> _Taps:
    """Taps for the middle `crop` of `after` outputs from `before` inputs."""
    scale, kept = before / after, min(crop, after)
    stretch, reach = max(scale, 1.0), 2 if interpolation == "bicubic" else 1
    centre = (np.arange(kept) + round((after - kept) / 2) + 0.5) * scale
    first, end = (np.trunc(centre + side * reach * stretch + 0.5).clip(0, before).astype(np.int64) for side in (-1, 1))
    place = first + np.arange((end - first).max())[:, None]
    x = np.abs(place + 0.5 - centre) / stretch
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    kernel = np.where(x < 1, near, np.where(x < 2, far, 0)) if interpolation == "bicubic" else np.maximum(1 - x, 0)
    kernel *= place < end
    shares = kernel / kernel.sum(axis=0)
    weights = np.trunc(shares * 2**_WEIGHT_BITS + np.copysign(0.5, shares))
    start, stop = int(first.min()), int(end.max())
    places = np.minimum(place, stop - 1) - start
    return _Taps(start, stop - start, torch.from_numpy(places), torch.from_numpy(weights))


def resampling_weights(before: int, after: int, crop: int, interpolation: str) -> tuple[Any, Any]:
    """Input places and weights of each output of one pass, (taps, outputs).

    The sum of weights of an output is 1.
    """
    taps = _taps(before, after, crop, interpolation)
    return taps.places + taps.start, taps.weights / 2**_WEIGHT_BITS


def _resample_axis(images: Any, axis: int, taps: _Taps) -> Any:
    """One pass along `axis`, a few lines at a time to keep the sums small."""
    places, weights = taps.places.to(images.device), taps.weights.to(images.device)
    lines = images.movedim(axis, -1)
    done = []
    for some in lines.reshape(-1, lines.shape[-1]).split(max(1, _MAX_SUMS // weights.shape[1])):
        sums = torch.zeros(len(some), weights.shape[1], dtype=torch.float64, device=images.device)
        for place, weight in zip(places, weights, strict=True):
            sums += some[:, place] * weight
        done.append(torch.floor(sums / 2**_WEIGHT_BITS + 0.5).clamp(0, 255).to(torch.uint8))
    return torch.cat(done).reshape(*lines.shape[:-1], -1).movedim(-1, axis)


@lru_cache(256)
def rows_first(before: tuple[int, int], after: tuple[int, int], interpolation: str, crop: tuple[int, int]) -> bool:
    """Whether Pillow resizes the height before the width between these sizes.

    The order matters because values are clipped between the passes. Pillow versions differ, so the order is measured,
    on noise.
    """
    noise = np.random.default_rng(0).integers(0, 2, before, dtype=np.uint8) * 255
    resized = Image.fromarray(noise).resize(after[::-1], Image.Resampling[interpolation.upper()])
    middle = [min(c, a) for c, a in zip(crop, after, strict=True)]
    wanted = np.asarray(vision.center_crop(resized, middle), np.int16)
    image = torch.from_numpy(noise)[None, None]
    off = [
        np.abs(resample(image, after, interpolation, order, crop)[0, 0].numpy() - wanted).sum()
        for order in (False, True)
    ]
    return bool(off[1] < off[0])
