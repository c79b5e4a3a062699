"""Checks stated attributes on the pixels of a picture.

The checks use the fixed layout and palette; they need no torch and no model. Every check passes on nearly all composed
scenes (see the tests). So a failed check is an error of the generator.
"""

import numpy as np
import numpy.typing as npt

from models.training.data.palette import HUES, U8, hue_distance, nearest_background, rgb_to_hsv
from models.training.data.scenes import SIZE_PX, Scene, Thing, boxes

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


def parts(mask: Mask, scene: Scene) -> list[Mask]:
    """The foreground (64, 64) of each thing.

    It consists of the pixels nearest to the middle of the thing's box.
    """
    middles = np.array([(left + edge / 2, top + edge / 2) for left, top, edge in boxes(scene)])
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] + 0.5
    nearest = ((np.stack([x, y], -1)[:, :, None] - middles) ** 2).sum(-1).argmin(-1)
    return [mask & (nearest == i) for i in range(len(scene.things))]


def gap(mask: Mask, axis: int) -> bool:
    """Whether a line near the middle is nearly empty.

    The line is a column for axis 0 and a row for axis 1.
    """
    return bool(mask.sum(axis)[28:37].min() <= 3)


def apart(mask: Mask, scene: Scene) -> bool:
    """Whether several things have foreground, and nearly empty lines between them.

    Things above each other, and three things, must also lie in their boxes, except for an eighth of their pixels. So a
    picture of two things does not pass as one of three.
    """
    if not all(part.sum() >= 50 for part in parts(mask, scene)):
        return False
    if len(scene.things) == 2 and not scene.column:
        return gap(mask, 0)
    inside = np.zeros_like(mask)
    for left, top, edge in boxes(scene):
        inside[top : top + edge, left : left + edge] = True
    fits = gap(mask, 1) and (mask & ~inside).sum() <= mask.sum() / 8
    return bool(fits and (scene.column or gap(mask[SIZE_PX // 2 :], 0)))


def alone(mask: Mask) -> bool:
    """Whether the picture shows no arrangement of several things."""
    thing = Thing("")
    scenes = [Scene((thing,) * n, "", "", column=column) for n, column in ((2, False), (2, True), (3, False))]
    return bool(mask.any()) and not any(apart(mask, scene) for scene in scenes)


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

    The checks are `background`, `size` and `place` where stated, and `colour` with the index of each shifted thing.
    Two things side by side have the check `pair`, two above each other `column`, equal things and a stated "one"
    `count`.
    They do not check which things the picture shows: the judge does.
    """
    mask = foreground(picture)
    found: dict[str, bool] = {}
    if "background" in scene.stated:
        found["background"] = background(picture) == scene.background
    if len(scene.things) > 1:
        found["count" if scene.counted else "column" if scene.column else "pair"] = apart(mask, scene)
    elif "count" in scene.stated:
        found["count"] = alone(mask)
    if len(scene.things) == 1 and "size" in scene.stated:
        found["size"] = size_fits(mask, scene)
    if len(scene.things) == 1 and "place" in scene.stated:
        found["place"] = place_fits(mask, scene.place)
    for i, (thing, part) in enumerate(zip(scene.things, parts(mask, scene), strict=True)):
        if thing.hue:
            found[f"colour{i}"] = has_hue(picture, part, thing.hue)
    return found
