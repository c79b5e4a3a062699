"""Images as a CLIP image tower wants them, resized on the device in bytes.

Owns the geometry and the resampling, which follow open_clip's transform to within one grey level: Pillow resamples
in two passes and rounds to bytes after each, and so does this. Opens no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from models.errors import ModelUnsupported

_MODES = ("squash", "shortest", "longest")
_WEIGHT_BITS = 22
_INTERPOLATIONS = {"bicubic": vision.InterpolationMode.BICUBIC, "bilinear": vision.InterpolationMode.BILINEAR}


class Preprocess:
    """open_clip's inference transform for batches of one size."""

    def __init__(self, config: Mapping[str, Any], device: Any) -> None:
        """Take a model's preprocess configuration. Raises ModelUnsupported for a mode that open_clip does not have."""
        size = config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._mode, self._interpolation = str(config["resize_mode"]), str(config["interpolation"])
        if self._mode not in _MODES or self._interpolation not in _INTERPOLATIONS:
            raise ModelUnsupported(f"cannot resize by {self._mode!r}, {self._interpolation!r}")
        if self._mode == "shortest" and self.size[0] != self.size[1]:
            self._interpolation = "bicubic"  # open_clip ignores the setting here
        self._fill = int(config["fill_color"])
        self._mean = torch.tensor(config["mean"], device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(config["std"], device=device).view(1, -1, 1, 1)

    def __call__(self, pixels: Any) -> Any:
        """uint8 (B, H, W, 3) on the device to normalised float32 (B, 3, h, w)."""
        return (self.resize(pixels.permute(0, 3, 1, 2)).float() / 255 - self._mean) / self._std

    def resize(self, images: Any) -> Any:
        """uint8 (B, 3, H, W) to uint8 of the tower's size: resampled, then cropped or padded at the centre."""
        before, after = tuple(images.shape[2:]), self._target(*images.shape[2:])
        if before != after:
            images = resample(images, after, self._interpolation, _rows_first(before, after, self._interpolation))
        return self._fit(images, *after)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.size
        if self._mode == "squash":
            return rows, columns
        if self._mode == "shortest" and rows == columns:
            short = min(height, width)
            return int(rows * height / short), int(rows * width / short)
        ratio = (max if self._mode == "longest" else min)(height / rows, width / columns)
        return round(height / ratio), round(width / ratio)

    def _fit(self, images: Any, height: int, width: int) -> Any:
        missing = (max(self.size[1] - width, 0), max(self.size[0] - height, 0))
        if any(missing):
            left, top = missing[0] // 2, missing[1] // 2
            images = torch.nn.functional.pad(images, (left, missing[0] - left, top, missing[1] - top), value=self._fill)
        return vision.center_crop(images, list(self.size))


def resample(images: Any, size: tuple[int, int], interpolation: str, rows_first: bool) -> Any:
    """Antialiased resampling of uint8 (B, C, H, W) in two passes, in bytes between them, on any device.

    On the CPU torch has quick kernels for bytes, good enough to shrink by; all else is Pillow's arithmetic to the bit.
    """
    height, width = images.shape[2:]
    if images.device.type == "cpu" and size[0] <= height and size[1] <= width:
        if rows_first:
            return resample(images.mT, size[::-1], interpolation, False).mT
        return vision.resize(images, list(size), interpolation=_INTERPOLATIONS[interpolation], antialias=True)
    across = _weights(width, size[1], interpolation).to(images.device)
    down = _weights(height, size[0], interpolation).to(images.device)
    if rows_first:
        return _bytes(_bytes(down @ images.double()).double() @ across.T)
    return _bytes(down @ _bytes(images.double() @ across.T).double())


def _bytes(sums: Any) -> Any:
    return torch.floor(sums / 2**_WEIGHT_BITS + 0.5).clamp(0, 255).to(torch.uint8)


@lru_cache(64)
def _weights(before: int, after: int, interpolation: str) -> Any:
    """What every input contributes to every output: whole float64 (after, before) that sum to about 2**22 a row."""
    scale = before / after
    stretch, reach = max(scale, 1.0), 2 if interpolation == "bicubic" else 1
    centre = (np.arange(after) + 0.5) * scale
    first, end = (np.maximum(np.trunc(centre + side * reach * stretch + 0.5), 0) for side in (-1, 1))
    place = np.arange(before)
    inside = (place >= first[:, None]) & (place < end[:, None])
    x = np.abs(place + 0.5 - centre[:, None]) / stretch
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    kernel = np.where(x < 1, near, np.where(x < 2, far, 0)) if interpolation == "bicubic" else np.maximum(1 - x, 0)
    shares = inside * kernel / (inside * kernel).sum(axis=1, keepdims=True)
    return torch.from_numpy(np.trunc(shares * 2**_WEIGHT_BITS + np.copysign(0.5, shares)))


@lru_cache(256)
def _rows_first(before: tuple[int, int], after: tuple[int, int], interpolation: str) -> bool:
    """Whether Pillow changes the height before the width between these sizes.

    Clipping between the passes makes it matter, and versions of Pillow differ, so it is asked, on noise.
    """
    noise = np.random.default_rng(0).integers(0, 2, before, dtype=np.uint8) * 255
    wanted = np.asarray(Image.fromarray(noise).resize(after[::-1], Image.Resampling[interpolation.upper()]), np.int16)
    image = torch.from_numpy(noise)[None, None]
    off = [np.abs(resample(image, after, interpolation, order)[0, 0].numpy() - wanted).sum() for order in (False, True)]
    return bool(off[1] < off[0])
