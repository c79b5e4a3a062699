"""Variety of a field of candidates, by the true drawings they are nearest to.

The true drawings of a thing are its icons in `SETS`. A candidate is compared, pixel by pixel, with each of them on the
candidate's own background and in every layout of a single thing. So neither the background nor the size of a thing
counts as variety. This module does not import torch.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.training.data.palette import U8
from models.training.data.scenes import Icons, Place, Scene, Size, Thing, compose
from models.training.evaluation import checks

SETS = (
    *("noto", "twemoji", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "fxemoji"),
    *("emojione", "streamline-emojis"),
)
"""The sets of true drawings; the last two are drawn by no generator."""
LAYOUTS: tuple[tuple[Size, Place], ...] = (
    *(("small", "centre"), ("medium", "centre"), ("large", "centre")),
    *(("small", "left"), ("small", "right"), ("medium", "left"), ("medium", "right")),
)


def held_by(name: str, icons: Icons) -> list[str]:
    """The sets that have a drawing of the thing."""
    return [style for style in SETS if (style, name) in icons]


def nearest(pictures: U8, name: str, icons: Icons) -> list[str]:
    """The set whose drawing of the thing is nearest to each picture.

    `pictures` is (N, 64, 64, 3); the distance is the mean squared error.
    """
    styles, drawings = held_by(name, icons), dict[str, U8]()
    found = []
    for picture in pictures:
        ground = checks.background(picture)
        if ground not in drawings:
            scenes = [Scene((Thing(name),), s, ground, *layout) for s in styles for layout in LAYOUTS]
            drawings[ground] = np.stack([compose(scene, icons) for scene in scenes])
        error = ((drawings[ground].astype(np.float32) - picture.astype(np.float32)) ** 2).mean((1, 2, 3))
        found.append(styles[int(error.argmin()) // len(LAYOUTS)])
    return found


def spread(pictures: U8) -> float:
    """Mean distance between two candidates: root mean square of pixels, 0 to 1."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32) / 255
    pairs = itertools.combinations(flat, 2)
    return float(np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in pairs]))


def gain(random_pick: list[float], best: list[float]) -> dict[str, float]:
    """Best of the field minus random pick: mean over prompts, and its standard error."""
    differences = np.asarray(best, float) - np.asarray(random_pick, float)
    return {
        "gain": float(differences.mean()),
        "gain_error": float(differences.std(ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else 0.0,
    }


def ordered(scores: Sequence[float] | np.ndarray[Any, Any], right: Sequence[bool]) -> float | None:
    """Share of pairs of a right and a wrong candidate that are in order.

    A pair is in order if the right one scores higher; ties count half. None if all candidates are right, or all wrong.
    """
    values, rights = np.asarray(scores, np.float64), np.asarray(right, bool)
    if rights.all() or not rights.any():
        return None
    above = values[rights][:, None] - values[~rights][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())
