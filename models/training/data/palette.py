"""The eleven colours of captions, and hue shifts of single-coloured things.

Pictures are uint8 RGB(A) arrays in sRGB. The background colours are exact in the training data; the pixel checks in
`checks.py` use the nearest one. This module does not import torch.
"""

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 27),
    "grey": (158, 160, 166),
    "red": (226, 62, 62),
    "orange": (247, 147, 45),
    "yellow": (252, 219, 72),
    "green": (88, 178, 92),
    "blue": (66, 122, 222),
    "purple": (142, 88, 190),
    "pink": (247, 166, 200),
    "brown": (133, 88, 58),
}
BACKGROUND_NAMES = tuple(BACKGROUNDS)

# Hues in turns (0 to 1) of the colours that a thing can be shifted to.
HUES: dict[str, float] = {
    "red": 0.0,
    "orange": 0.078,
    "yellow": 0.142,
    "green": 0.345,
    "blue": 0.6,
    "purple": 0.765,
    "pink": 0.91,
}
HUE_NAMES = tuple(HUES)


def rgb_to_hsv(rgb: U8) -> F32:
    """Hue (turns), saturation and value, each 0 to 1, of an RGB array (..., 3)."""
    c = rgb.astype(np.float32) / 255
    high, low = c.max(-1), c.min(-1)
    spread = high - low
    safe = np.where(spread == 0, 1, spread)
    r, g, b = c[..., 0], c[..., 1], c[..., 2]
    hue = np.where(high == r, (g - b) / safe % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    hue = np.where(spread == 0, 0, hue / 6)
    return np.stack([hue, spread / np.where(high == 0, 1, high), high], -1).astype(np.float32)


def hsv_to_rgb(hsv: F32) -> U8:
    """The inverse of `rgb_to_hsv`; hue is taken modulo 1."""
    hue, sat, val = hsv[..., 0] % 1 * 6, hsv[..., 1], hsv[..., 2]
    k = (np.array([5, 3, 1], np.float32) + hue[..., None]) % 6
    rgb = val[..., None] * (1 - sat[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.rint(rgb * 255).clip(0, 255).astype(np.uint8)


def hue_distance(a: F32 | float, b: F32 | float) -> F32:
    """Distance on the hue circle in turns, 0 to 0.5."""
    d = np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)) % 1
    return np.minimum(d, 1 - d).astype(np.float32)


def nearest_background(rgb: F32 | U8) -> str:
    """The palette name nearest to one colour (3,) in the range 0 to 255."""
    table = np.array(list(BACKGROUNDS.values()), np.float32)
    return BACKGROUND_NAMES[int(((table - np.asarray(rgb, np.float32)) ** 2).sum(1).argmin())]


def main_hue(rgba: U8, share: float = 0.72) -> float | None:
    """The hue (turns) of most coloured, opaque pixels; None if there is none.

    At least `share` of these pixels must be near the hue. Pixels count as coloured above a saturation of 0.25. At least
    a third of the opaque pixels must be coloured.
    """
    hsv = rgb_to_hsv(rgba[..., :3])
    opaque = rgba[..., 3] > 200
    coloured = opaque & (hsv[..., 1] > 0.25) & (hsv[..., 2] > 0.2)
    if coloured.sum() < max(30, opaque.sum() / 3):
        return None
    hues = hsv[..., 0][coloured]
    counts = np.histogram(hues, bins=36, range=(0, 1))[0]
    window = np.convolve(np.concatenate([counts, counts[:4]]), np.ones(4), "valid")[:36]
    best = int(window.argmax())
    centre = float((best + 2) / 36 % 1)
    near = hue_distance(hues, centre) < 0.075
    return centre if near.mean() >= share else None


def shift_hue(rgba: U8, source: float, target: str) -> U8:
    """A copy with the pixels near the hue `source` (turns) shifted to a named colour.

    Other pixels do not change.
    """
    hsv = rgb_to_hsv(rgba[..., :3])
    near = hue_distance(hsv[..., 0], source) < 0.14
    moved = hsv.copy()
    moved[..., 0] = HUES[target] + (hsv[..., 0] - source + 0.5) % 1 - 0.5
    moved[..., 0] = HUES[target] + (moved[..., 0] - HUES[target]) * 0.4
    moved[..., 1] = np.where(hsv[..., 1] > 0.15, np.clip(hsv[..., 1] * 0.6 + 0.36, 0, 1), hsv[..., 1])
    lift = {"yellow": 0.93, "pink": 0.95, "orange": 0.93}.get(target, 0.0)
    bright = np.maximum(hsv[..., 2], lift * hsv[..., 2] + 0.18 * (lift > 0))
    moved[..., 2] = np.where(hsv[..., 1] > 0.15, bright, hsv[..., 2])
    if target == "pink":
        moved[..., 1] *= 0.62
    out = rgba.copy()
    out[..., :3] = np.where(near[..., None], hsv_to_rgb(np.clip(moved, -1, 1)), rgba[..., :3])
    return out
