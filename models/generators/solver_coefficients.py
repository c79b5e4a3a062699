"""Noise schedules as tables of coefficients, probed from any linear solver.

Owns the probing and its check of linearity. Knows neither torch nor diffusers: an adapter wraps its scheduler as a
`Solver`. The state that a scheduler object keeps between steps does not leave this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.protocols import Schedule

Vector: TypeAlias = NDArray[np.float64]
"""float64 (WIDTH,)."""

WIDTH = 5

_NOISE_ONLY = 4
_TOLERANCE = 1e-5
_AMPLITUDE = 30.0


@dataclass(frozen=True, slots=True)
class SolverStep:
    """Result of one solver step.

    The next state, the x0 estimate that it used, and the noise that it drew (zeros for none).
    """

    state: Vector
    x0: Vector
    noise: Vector


class Solver(Protocol):
    """A sampler with a number of steps.

    It is called once for every step, in order, and may remember earlier steps.
    """

    @property
    def times(self) -> Sequence[float]:
        """The denoiser's time at every step, first to last."""
        ...

    @property
    def noise_scale(self) -> float:
        """Standard deviation of the first state."""
        ...

    def scale(self, step: int, state: Vector) -> Vector:
        """The state as the denoiser's input; called right before `step`."""
        ...

    def entry(self, step: int) -> tuple[float, float]:
        """Factors of a finished latent and of unit noise in the state before `step`."""
        ...

    def step(self, step: int, state: Vector, output: Vector) -> SolverStep:
        """The next state, given this state and the denoiser's output for it."""
        ...


def quadratic_times(steps: int, last: int = 1000) -> list[int]:
    """Times of `QUADRATIC`: distinct, falling from `last` - 1; steps 1..last.

    The sampler is DDIM at these times. DDIM is the first order of DPM-Solver++, whose stock scheduler takes custom
    times.
    """
    return [max(round(last * (1 - i / steps) ** 2) - 1, steps - 1 - i) for i in range(steps)]


def probe(sampler: str, start: Callable[[], Solver]) -> Schedule:
    """The table of a solver. `start` makes a new one; two are run.

    Raises ValueError if the solver is not linear, uses more than one earlier step, or gives numbers that are not
    finite.
    """
    solver = start()
    table = np.zeros((len(solver.times), len(Schedule.COLUMNS)))
    with np.errstate(all="ignore"):
        for step in range(len(table)):
            table[step] = _read_row(solver, step, table[step - 1] if step else None)
    entry = np.asarray([solver.entry(step) for step in range(len(table))], np.float64).reshape(len(table), 2)
    schedule = Schedule(sampler, float(solver.noise_scale), table, entry)
    if (
        not len(table)
        or not np.isfinite(table).all()
        or not np.isfinite(entry).all()
        or not np.isfinite(schedule.noise_scale)
    ):
        raise ValueError(f"sampler {sampler!r} has no finite table at {len(table)} steps")
    _verify(schedule, start())
    return schedule


def _read_row(solver: Solver, step: int, before: Vector | None) -> Vector:
    """One row of the table.

    State and output occupy two of four components, and swap with the other two at every step. So what a solver
    remembers of the last step shows up in components of its own. The fifth component holds the noise alone.
    """
    here, there = (0, 2) if step % 2 == 0 else (2, 0)
    state, output = np.zeros(WIDTH), np.zeros(WIDTH)
    state[here] = output[here + 1] = 1.0
    c_in = solver.scale(step, state)[here]
    stepped = solver.step(step, state, output)
    s = stepped.state[_NOISE_ONLY] / stepped.noise[_NOISE_ONLY] if stepped.noise[_NOISE_ONLY] else 0.0
    clean = stepped.state - s * stepped.noise
    h = 0.0 if before is None else _history(before[4:6], clean[there : there + 2])
    return np.array([solver.times[step], c_in, *clean[here : here + 2], *stepped.x0[here : here + 2], h, s])


def _history(x0_before: Vector, seen: Vector) -> float:
    """Weight of the last step's x0 in this state, read where that x0 was larger."""
    larger = int(np.argmax(np.abs(x0_before)))
    return float(seen[larger] / x0_before[larger])


def _verify(schedule: Schedule, solver: Solver) -> None:
    """Compare a new solver on large random states with the table.

    This finds clipping and longer memory. Raises ValueError.
    """
    random = np.random.default_rng(0)
    x0_before = np.zeros(WIDTH)
    for step, (_, c_in, a, b, c, d, h, s) in enumerate(schedule.table):
        state, output = (_AMPLITUDE * random.standard_normal((2, WIDTH))).astype(np.float32).astype(np.float64)
        seen = solver.scale(step, state)
        stepped = solver.step(step, state, output)
        terms = np.array([a * state, b * output, h * x0_before, s * stepped.noise])
        x0_terms = np.array([c * state, d * output])
        x0_before = stepped.x0
        if not (_agree(stepped.state, terms) and _agree(stepped.x0, x0_terms) and _agree(seen, c_in * state[None])):
            raise ValueError(
                f"sampler {schedule.sampler!r} is not linear at step {step}: clipping, thresholding or memory"
            )


def _agree(seen: Vector, terms: NDArray[np.float64]) -> bool:
    slack = _TOLERANCE * (1.0 + np.abs(terms).sum(axis=0))
    return bool((np.abs(seen - terms.sum(axis=0)) <= slack).all())
