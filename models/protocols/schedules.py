"""Samplers as tables of coefficients, without torch.

Owns `Schedule`, and how samplers space their steps in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A sampler with a number of steps, as a table of `COLUMNS`.

    It has one row per denoiser call. The denoiser gets `c_in * x` at time `t` and returns m. The estimate of the
    finished latent and the next state are

        x0 = c * x + d * m
        x' = a * x + b * m + h * previous_x0 + s * noise + older[0] * previous_x + older[1] * x0_before_previous

    The first x is `noise_scale` times unit noise. `entry`, float64 (calls, 2), mixes an image's latent into the state
    before a call: `entry[call, 0] * latent + entry[call, 1] * unit_noise`. `older`, float64 (calls, 2), is None for
    zeros. `starts` (steps + 1) counts the calls before each step; None: one call per step. A second-order sampler such
    as Heun makes two calls in most steps.
    """

    COLUMNS = ("t", "c_in", "a", "b", "c", "d", "h", "s")

    sampler: str
    noise_scale: float
    table: NDArray[np.float64]
    entry: NDArray[np.float64]
    older: NDArray[np.float64] | None = None
    starts: tuple[int, ...] | None = None

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.table) if self.starts is None else len(self.starts) - 1

    @property
    def calls(self) -> int:
        """Number of denoiser calls of all steps."""
        return len(self.table)

    def calls_before(self, step: int) -> int:
        """Denoiser calls of the first `step` steps: the row at which a step begins."""
        return step if self.starts is None else self.starts[step]


QUADRATIC = "ddim_quadratic"
"""Sampler with times quadratic in the share of remaining steps.

See `solver_coefficients.quadratic_times`.
"""


def time_done(sampler: str, share: float) -> float:
    """Share of the noise schedule's time passed after `share` of the steps, both 0..1.

    Most samplers space their steps evenly. `QUADRATIC` takes larger steps through the noise and spends more steps on
    nearly clean latents (Song et al., Denoising Diffusion Implicit Models, 2021, appendix D).
    """
    return 1.0 - (1.0 - share) ** _power(sampler)


def steps_left(sampler: str, time: float) -> float:
    """Share of a sampler's steps within the last `time` of the noise schedule.

    The inverse of `time_done`.
    """
    return float(time ** (1 / _power(sampler)))


def _power(sampler: str) -> int:
    return 2 if sampler == QUADRATIC else 1
