"""Steering of the synthetic models: a gradient in closed form, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.protocols.steering import SteeringTarget, SteerRow
from models.synthetic.generator import CELL, FakeLatent
from models.synthetic.scorer import HEADROOM
from models.synthetic.thumbnails import Array

_SMALLEST = 1e-9
_TEXTS = 12
"""Components of an embedding that are mean colours."""


class FakeSteering:
    """The gradient of the synthetic score, see `models.protocols.steering.Steering`."""

    refusal: str | None = None
    bit_stable = True

    def check(self, width: int, height: int) -> None:
        """Every size has a gradient."""

    def aim(self, target: SteeringTarget) -> SteeringTarget:
        """The target itself."""
        return target

    def steer(self, rows: Sequence[SteerRow], size: int) -> list[Any]:
        """Moves every row alone. Raises ValueError for no rows or more than `size`."""
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        return [_moved(row) for row in rows]


def _moved(row: SteerRow) -> FakeLatent:
    latent: FakeLatent = row.latent
    assert latent.x0 is not None
    x0: Array = latent.x0.astype(np.float64)
    gradient = score_gradient(x0, row.aim)
    if row.inputs is not None and row.inputs.inpainting is not None:
        gradient = np.where(row.inputs.inpainting.cells, gradient, 0.0)
    length, longest = float(np.linalg.norm(gradient)), float(np.linalg.norm(x0))
    if not np.isfinite(length) or length * longest < _SMALLEST:
        return latent
    delta = row.scale * longest / length * gradient
    _, _, _, b, _, d, _, _ = row.schedule.table[row.call]
    moved = latent.x.astype(np.float64) + b / d * delta
    return replace(latent, x=moved.astype(np.float32), x0=(x0 + delta).astype(np.float32))


def score_gradient(x0: Array, target: SteeringTarget) -> Array:
    """The gradient of the score with respect to x0, float64 (3, h, w)."""
    halves = [_half_weights(side) for side in x0.shape[1:]]
    colours = np.einsum("ih,chw,jw->cij", halves[0], np.tanh(x0), halves[1])
    vector = np.append(colours.reshape(-1), HEADROOM)
    length = float(np.linalg.norm(vector))
    embedding = vector / length
    slope = np.asarray(target.wanted_weights @ target.wanted, np.float64)
    if len(target.unwanted):
        seen = target.unwanted @ embedding > 0
        slope = slope - (target.unwanted_weights * seen) @ target.unwanted
    if target.taste is not None:
        slope = slope + target.bound / np.cosh(target.taste @ embedding - target.offset) ** 2 * target.taste
    inner = (slope - embedding * (embedding @ slope)) / length
    cells = np.einsum("ih,cij,jw->chw", halves[0], inner[:_TEXTS].reshape(3, 2, 2), halves[1])
    return np.asarray(cells * (1 - np.tanh(x0) ** 2))


def _half_weights(side: int) -> Array:
    """Shares of latent cells in the mean of each half of the image, float64 (2, side)."""
    pixels = np.arange(side * CELL) // CELL
    parts = np.array_split(pixels, 2)
    return np.array([np.bincount(part, minlength=side) / len(part) for part in parts])
