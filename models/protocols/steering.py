"""Protocol of steering by the gradient of the score. Without torch.

Owns the settings of a request, the steps after which rows are steered, and the target as plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.protocols.image_inputs import ImageInputs
from models.protocols.schedules import Schedule, time_done

MAX_SCALE = 0.1
"""Largest scale of a request; beyond it only the score improves."""

MIN_STEPS = 8
"""Fewest steps of a steered schedule: with fewer, single moves would be too large."""

Aim: TypeAlias = Any
"""A target in the form of one `Steering`; opaque."""


@dataclass(frozen=True, slots=True)
class SteeringSettings:
    """How strongly and when rows are steered.

    `scale` above 0 is the length of a move, relative to the x0 estimate. Rows are steered while the completed share of
    the noise schedule's time is between `start` and `end`, both in [0, 1].
    """

    scale: float
    start: float = 0.15
    end: float = 0.8

    def steps(self, sampler: str, steps: int, made: int) -> tuple[int, ...]:
        """The steps after which a row is steered, from 1 among the `made` last ones.

        A step counts by its middle. The last one is never followed by a move.
        """
        skipped = steps - made
        middles = {step: time_done(sampler, (skipped + step - 0.5) / steps) for step in range(1, made)}
        return tuple(step for step, time in middles.items() if self.start <= time <= self.end)


@dataclass(frozen=True, slots=True, eq=False)
class SteeringTarget:
    """The score of an image as a function of its embedding e, a unit vector (D,).

    `wanted @ e` weighted by `wanted_weights`, minus `max(0, unwanted @ e)` weighted by `unwanted_weights`, plus
    `bound * tanh(taste @ e - offset)`. float32: `wanted` (P, D), `unwanted` (K, D), `taste` (D,) or None.
    """

    wanted: NDArray[np.float32]
    wanted_weights: NDArray[np.float32]
    unwanted: NDArray[np.float32]
    unwanted_weights: NDArray[np.float32]
    taste: NDArray[np.float32] | None = None
    offset: float = 0.0
    bound: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SteerRow:
    """A row after its denoiser call `call` of `schedule`; `latent` is its state since.

    `scale` is that of `SteeringSettings`. With an inpainting mask, only the masked part moves.
    """

    latent: Any
    schedule: Schedule
    call: int
    seed: int
    aim: Aim
    scale: float
    inputs: ImageInputs | None = None


class Steering(Protocol):
    """Gradients of the score at the x0 estimate, of one generator and scorer.

    Use from the engine's thread.
    """

    @property
    def refusal(self) -> str | None:
        """Why these models cannot be steered; None if no reason is known. Any thread."""
        ...

    @property
    def bit_stable(self) -> bool:
        """Whether equal calls give equal bits. Any thread."""
        ...

    def check(self, width: int, height: int) -> None:
        """Make sure of a gradient at a size in pixels.

        The first call of a size computes one. Raises `OutOfMemory`, and ValueError with the reason
        if there is none.
        """
        ...

    def aim(self, target: SteeringTarget) -> Aim:
        """The target in the form that `steer` takes."""
        ...

    def steer(self, rows: Sequence[SteerRow], size: int) -> list[Any]:
        """The latents of rows of one shape after one move, in order.

        The batch is padded to `size` >= len(rows) rows. The bits of a row depend on `size`, not on the other rows. A
        row whose gradient is almost zero or not finite keeps its latent. Raises `OutOfMemory`.
        """
        ...
