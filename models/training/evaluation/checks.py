"""Checks stated attributes on the pixels of a picture.

The checks use the fixed layout and palette; they need no torch and no model. Every check passes on nearly all composed
scenes (see the tests). So a failed check is an error of the generator.
"""

import numpy as np
import numpy.typing as npt

from models.training.data.palette import HUES, U8, hue_distance, nearest_background, rgb_to_hsv
from models.training.data.scenes import Scene

Mask = npt.NDArray[np.bool_]


def border_colour(picture: U8) -> npt.NDArray[np.float32]:
    """Median colour (3,) of the outermost two pixels on all sides."""
    sides = (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:])
    edge = np.concatenate([side.reshape(-1, 3) for side in sides]).astype(np.float32)
    return np.median(edge, axis=0)


def background(picture: U8) -> str:
    """The palette name of the background."""
    return nearest_background(border_colour(picture))


def foreground(picture: U8) -> Mask:
    """Pixels (64, 64) that clearly differ from the background."""
    return np.abs(picture.astype(np.float32) - border_colour(picture)).max(-1) > 36


def extent(mask: Mask) -> int:
    """The longer side in px of the foreground's bounding box.

    Rows and columns with at most one pixel do not count.
    """
    rows, columns = np.flatnonzero(mask.sum(1) > 1), np.flatnonzero(mask.sum(0) > 1)
    if not len(rows) or not len(columns):
        return 0
    return int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1


def has_hue(picture: U8, mask: Mask, hue: str) -> bool:
    """Whether `hue` is the nearest named colour for enough of the foreground.

    At least 35 % of the coloured foreground pixels must be nearest to `hue`, of at least 12 such pixels.
    """
    hsv = rgb_to_hsv(picture)
    coloured = mask & (hsv[..., 1] > 0.2) & (hsv[..., 2] > 0.2)
    if coloured.sum() < 12:
        return False
    values = hsv[..., 0][coloured]
    names = list(HUES)
    nearest = np.stack([hue_distance(values, HUES[n]) for n in names]).argmin(0)
    return bool((nearest == names.index(hue)).mean() >= 0.35)


def halves(mask: Mask) -> tuple[Mask, Mask]:
    """The foreground of the left and of the right half."""
    left, right = mask.copy(), mask.copy()
    left[:, 32:] = False
    right[:, :32] = False
    return left, right


def two_things(mask: Mask) -> bool:
    """Foreground in both halves and a nearly empty column between them."""
    left, right = halves(mask)
    return bool(left.sum() >= 50 and right.sum() >= 50 and mask[:, 28:37].sum(0).min() <= 3)


def size_fits(mask: Mask, scene: Scene) -> bool:
    """Whether the foreground is as large as stated.

    Things on the left or right are smaller, and their small and medium sizes differ less.
    """
    found, small = extent(mask), 36 if scene.place == "centre" else 29
    return {"small": 0 < found <= small, "medium": 26 <= found <= 52, "large": found >= 47}[scene.size]


def place_fits(mask: Mask, place: str) -> bool:
    """Whether the foreground is at the stated place."""
    if not mask.any():
        return False
    x = float(np.nonzero(mask)[1].mean())
    return {"left": x < 27, "centre": 24 <= x <= 40, "right": x > 37}[place]


def attributes(picture: U8, scene: Scene) -> dict[str, bool]:
    """Whether the picture (64, 64, 3) shows each attribute that a caption states.

    The checks are `background`, `size` and `place` where stated, `colour` of each shifted thing, and `pair`.
    They do not check which things the picture shows: the judge does.
    """
    mask = foreground(picture)
    found: dict[str, bool] = {}
    if "background" in scene.stated:
        found["background"] = background(picture) == scene.background
    if len(scene.things) == 2:
        found["pair"] = two_things(mask)
    if len(scene.things) == 1 and "size" in scene.stated:
        found["size"] = size_fits(mask, scene)
    if len(scene.things) == 1 and "place" in scene.stated:
        found["place"] = place_fits(mask, scene.place)
    parts = halves(mask) if len(scene.things) == 2 else (mask,)
    for i, (thing, part) in enumerate(zip(scene.things, parts, strict=True)):
        if thing.hue:
            found[f"colour{i}"] = has_hue(picture, part, thing.hue)
    return found
