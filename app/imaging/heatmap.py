"""Heat maps: an image in grey with a coloured overlay of relevance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOURS = np.array([[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]], np.float64)
"""Colours from cold to warm, evenly spaced.

Lightness increases with warmth, so that the map is readable without colour.
"""

_MAP_OPACITY = 0.6
"""Opacity of the map over the image."""


def heat_map(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Overlay `image` (H, W, 3) with `heat` (h, w), scaled to its own range."""
    low, high = float(heat.min()), float(heat.max())
    level = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    size = (image.shape[1], image.shape[0])
    smooth = np.asarray(Image.fromarray(level.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), np.float64)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)[:, :, None]
    return (
        np.clip((1 - _MAP_OPACITY) * grey + _MAP_OPACITY * _apply_colours(np.clip(smooth, 0, 1)), 0, 255)
        .round()
        .astype(np.uint8)
    )


def _apply_colours(level: NDArray[np.float64]) -> NDArray[np.float64]:
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(level, stops, _COLOURS[:, channel]) for channel in range(3)], axis=2)
