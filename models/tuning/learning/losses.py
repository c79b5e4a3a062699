"""Losses of reward tuning, in the terms of a schedule's table.

A prediction m for a noisy state x estimates the clean latent as `c * x + d * m`, whatever the model predicts. So one
formula serves noise, velocity and flow models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SMALL = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class NoisyRows:
    """Noisy states with their clean latents, float32 (B, C, h, w).

    `x` is the state before the scheduler's input factor, `c` and `d` (B, 1, 1, 1) the weights of the estimate. `value`
    (B,) is the optimality in [0, 1], or the weight of distillation.
    """

    x: Any
    clean: Any
    c: Any
    d: Any
    value: Any


def nft_loss(rows: NoisyRows, tuned: Any, previous: Any, beta: float) -> Any:
    """Loss (B,) of DiffusionNFT (arXiv 2509.16117, equation 5).

    `tuned` and `previous` are predictions of the trained and of the sampling policy. Their implicit positive and
    negative policies must fit good and bad candidates.
    """
    positive = _fit(rows, (1 - beta) * previous + beta * tuned)
    negative = _fit(rows, (1 + beta) * previous - beta * tuned)
    return (rows.value * positive + (1 - rows.value) * negative) / beta


def distillation_loss(rows: NoisyRows, tuned: Any) -> Any:
    """Loss (B,) of fine-tuning on candidates, weighted by their value."""
    return rows.value * _fit(rows, tuned)


def distance(tuned: Any, base: Any) -> Any:
    """Mean squared distance (B,) of two predictions."""
    return (tuned - base).square().mean(dim=(1, 2, 3))


def _fit(rows: NoisyRows, prediction: Any) -> Any:
    """Squared error of the estimate (B,), divided by its own mean absolute error."""
    error = rows.c * rows.x + rows.d * prediction - rows.clean
    scale = error.detach().abs().mean(dim=(1, 2, 3)).clamp(min=_SMALL)
    return error.square().mean(dim=(1, 2, 3)) / scale
