"""The gradient of the score at the x0 estimate, and the move along it.

Owns the objective and its shifted views, sub-batches and rows that keep their place. How a generator decodes with
gradients is in `native` and `gate`; both have the form of `DifferentiableDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch

from models.protocols import Latent
from models.protocols.steering import SteeringTarget, SteerRow
from models.runtime.placement import DevicePlacement, gradient_guard

VIEWS = 2
"""Shifted views of an image whose scores are averaged.

A single view gains score that does not survive a shift.
"""

SHIFT_SHARE = 32
"""Largest shift of a view: this fraction (1/32) of the shorter side.

It is at least a pixel.
"""

VARIATION_WEIGHT = 0.25
"""Weight of the image's total variation, so that noise does not pay."""

RANGE_WEIGHT = 1.0
"""Weight of the mean squared excess over the range of pixels."""

CALL_PIXELS = 2**18
"""Pixels of one pass backwards, which bounds its memory."""

LOSS_SCALE = 2.0**12
"""Factor of the objective, so that gradients in half precision do not vanish."""

SMALLEST_GAIN = 1e-7
"""Smallest score that a move of the latent's whole length must promise.

To first order; else the row stays.
"""


class DifferentiableDecoder(Protocol):
    """The way from x0 estimates of rows to their images, with gradients."""

    placement: DevicePlacement

    def prepare(self, width: int, height: int) -> None:
        """Prepare a size in pixels. Raises ValueError if its images have no gradient."""
        ...

    def example(self, width: int, height: int) -> Any:
        """A random x0 estimate of one row, float32 (1, ...)."""
        ...

    def estimate(self, latent: Latent) -> Any:
        """The x0 estimate of a row, float32 (...)."""
        ...

    def images(self, x0: Any, width: int, height: int) -> Any:
        """Images of estimates (B, ...), float32 (B, 3, H, W) in about -1..1."""
        ...

    def size(self, row: SteerRow) -> tuple[int, int]:
        """Width and height of a row's image in pixels."""
        ...

    def movable(self, row: SteerRow) -> Any | None:
        """Where a row may move, bool in the form of its estimate; None for everywhere."""
        ...

    def moved(self, row: SteerRow, delta: Any) -> Latent:
        """The latent of a row whose x0 estimate has moved by `delta`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Aim:
    """A `SteeringTarget` on the device."""

    wanted: Any
    wanted_weights: Any
    unwanted: Any
    unwanted_weights: Any
    taste: Any | None
    offset: float
    bound: float

    def scores(self, vectors: Any) -> Any:
        """Scores of embeddings (V, D), with gradients."""
        score = (vectors @ self.wanted.mT) @ self.wanted_weights
        if len(self.unwanted):
            score = score - (vectors @ self.unwanted.mT).clamp(min=0) @ self.unwanted_weights
        if self.taste is not None:
            score = score + self.bound * torch.tanh(vectors @ self.taste - self.offset)
        return score


class GradientSteering:
    """Steering through a decoder and an image tower.

    See `models.protocols.steering.Steering`. On CUDA some gradients are summed in an order that varies, so equal bits
    are promised on hosts only.
    """

    def __init__(self, decoder: DifferentiableDecoder, embed: Callable[[Any], Any]) -> None:
        """`embed` makes unit vectors (B, D) of float images (B, 3, H, W) in 0..255."""
        self._decoder = decoder
        self._embed = embed
        self._checked: dict[tuple[int, int], str | None] = {}
        self.refusal: str | None = None
        self.bit_stable = decoder.placement.on_cpu

    def check(self, width: int, height: int) -> None:
        """See `Steering`."""
        size = width, height
        if size not in self._checked:
            with gradient_guard():
                self._checked[size] = self._find_problem(width, height)
        problem = self._checked[size]
        self.refusal = None if None in self._checked.values() else problem
        if problem is not None:
            raise ValueError(f"{problem}; omit `steering`")

    def aim(self, target: SteeringTarget) -> _Aim:
        """See `Steering`."""
        device = self._decoder.placement.device

        def tensor(array: Any) -> Any:
            return torch.from_numpy(array).to(device, torch.float32)

        return _Aim(
            tensor(target.wanted),
            tensor(target.wanted_weights),
            tensor(target.unwanted),
            tensor(target.unwanted_weights),
            None if target.taste is None else tensor(target.taste),
            target.offset,
            target.bound,
        )

    def steer(self, rows: Sequence[SteerRow], size: int) -> list[Latent]:
        """See `Steering`. Raises ValueError for no rows or more than `size`.

        Sub-batches are equal, so that the bits of a row do not depend on its place.
        """
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        width, height = self._decoder.size(rows[0])
        count = ceil(size / max(1, CALL_PIXELS // (width * height)))
        part = ceil(size / count)
        padded = [*rows, *[rows[-1]] * (part * count - len(rows))]
        with gradient_guard():
            deltas = [
                delta
                for start in range(0, len(padded), part)
                for delta in self._deltas(padded[start : start + part], (width, height))
            ]
            return [
                row.latent if delta is None else self._decoder.moved(row, delta)
                for row, delta in zip(rows, deltas, strict=False)
            ]

    def _deltas(self, rows: Sequence[SteerRow], size: tuple[int, int]) -> Iterator[Any | None]:
        """The move of each row's estimate; None for a row that stays."""
        x0 = torch.stack([self._decoder.estimate(row.latent) for row in rows]).clone()
        gradient = self._gradient(x0, [row.aim for row in rows], [_shifts(row, min(size)) for row in rows], size)
        for row, estimate, slope in zip(rows, x0.detach(), gradient, strict=True):
            where = self._decoder.movable(row)
            if where is not None:
                estimate, slope = (torch.where(where, each, torch.zeros_like(each)) for each in (estimate, slope))
            length, longest = float(slope.norm()), float(estimate.norm())
            promised = length * longest / LOSS_SCALE
            steep = np.isfinite(promised) and promised > SMALLEST_GAIN
            yield row.scale * longest / length * slope if steep else None

    def _gradient(self, x0: Any, aims: Sequence[_Aim], shifts: Sequence[Any], size: tuple[int, int]) -> Any:
        """The objective's slope at estimates (B, ...), times `LOSS_SCALE`."""
        x0.requires_grad_(True)
        images = self._decoder.images(x0, *size)
        embedded = self._embed(torch.cat([_shifted(images, [each[view] for each in shifts]) for view in range(VIEWS)]))
        vectors = embedded.reshape(VIEWS, len(aims), -1)
        scores = torch.stack([aim.scores(vectors[:, place]).mean() for place, aim in enumerate(aims)])
        objective = scores - VARIATION_WEIGHT * _variation(images) - RANGE_WEIGHT * _excess(images)
        (slope,) = torch.autograd.grad(LOSS_SCALE * objective.sum(), x0)
        return slope.detach()

    def _find_problem(self, width: int, height: int) -> str | None:
        """Why a random estimate of this size has no gradient; None if it has one."""
        try:
            self._decoder.prepare(width, height)
            x0 = self._decoder.example(width, height).clone()
            vector = self._embed(_levels(self._decoder.images(x0, width, height)))[0].detach()
            drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(0)).to(vector.device)
            none = vector.new_zeros((0, len(vector)))
            aim = _Aim(drawn[None], vector.new_ones(1), none, none[:, 0], None, 0.0, 0.0)
            slope = self._gradient(x0, [aim], [np.zeros((VIEWS, 2), np.int64)], (width, height))
        except (ValueError, NotImplementedError) as error:
            return str(error)
        except RuntimeError as error:
            if "grad" in str(error) or "nference tensor" in str(error):
                return "decoder or image tower cannot be differentiated"
            raise
        finite = bool(torch.isfinite(slope).all()) and bool(slope.any())
        return None if finite else "the gradient is zero or not finite"


def _shifts(row: SteerRow, side: int) -> Any:
    """Shifts of a row's views, int (VIEWS, 2), drawn from its seed and call."""
    furthest = max(1, side // SHIFT_SHARE)
    draw = np.random.default_rng((row.seed, row.call))
    return draw.integers(-furthest, furthest + 1, (VIEWS, 2))


def _shifted(images: Any, shifts: Sequence[Any]) -> Any:
    """Grey levels of images in -1..1, each shifted; edges are repeated."""
    levels = _levels(images)
    margin = max(int(np.abs(each).max()) for each in shifts)
    if not margin:
        return levels
    height, width = levels.shape[2:]
    wide = torch.nn.functional.pad(levels, (margin,) * 4, mode="replicate")
    corners = [(margin + int(down), margin + int(right)) for down, right in shifts]
    return torch.stack(
        [each[:, top : top + height, left : left + width] for each, (top, left) in zip(wide, corners, strict=True)]
    )


def _levels(images: Any) -> Any:
    """Grey levels in 0..255 of images in -1..1."""
    return (images * 0.5 + 0.5).clamp(0, 1) * 255


def _variation(images: Any) -> Any:
    """Mean absolute difference of neighbouring pixels in 0..1, down plus across, (B,)."""
    down, across = images.diff(dim=2), images.diff(dim=3)
    return (down.abs().mean(dim=(1, 2, 3)) + across.abs().mean(dim=(1, 2, 3))) / 2


def _excess(images: Any) -> Any:
    """Mean squared excess of pixels over -1..1, (B,)."""
    return (images.abs() - 1).clamp(min=0).square().mean(dim=(1, 2, 3))
