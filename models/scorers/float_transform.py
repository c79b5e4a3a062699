"""The differentiable twin of `image_transforms`, without rounding.

Its geometry and weights are the same, its results within one grey level. Resampling is two
matrix products, so its gradient has equal bits in each run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from models.scorers.image_transforms import ImageTransform, resampling_weights, rows_first


class FloatTransform:
    """An `ImageTransform` for images with gradients."""

    def __init__(self, transform: ImageTransform) -> None:
        self._transform = transform

    def __call__(self, images: Any) -> Any:
        """float32 (B, 3, H, W) in 0..255 to normalised float32 (B, 3, h, w)."""
        return self._transform.normalised(self.resize(images))

    def resize(self, images: Any) -> Any:
        """float32 (B, 3, H, W) in 0..255 to the tower's size.

        Values that overshoot are cut to 0..255 after each pass, as bytes are.
        """
        transform = self._transform
        before = tuple(images.shape[2:])
        after = transform.target(*before)
        if before != after:
            kind, crop = transform.interpolation, transform.size
            order = (0, 1) if rows_first(before, after, kind, crop) else (1, 0)
            for axis in order:
                weights = _matrix(before[axis], after[axis], crop[axis], kind).to(images.device)
                images = (weights @ images if axis == 0 else images @ weights.mT).clamp(0, 255)
        return transform.fit(images)


@lru_cache(64)
def _matrix(before: int, after: int, crop: int, interpolation: str) -> Any:
    """Weights of the middle `crop` of `after` outputs, float32 (outputs, before)."""
    places, weights = resampling_weights(before, after, crop, interpolation)
    matrix = torch.zeros(weights.shape[1], before, dtype=torch.float64)
    matrix.scatter_add_(1, places.mT, weights.mT)
    return matrix.float()
