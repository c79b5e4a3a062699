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
"""float64 (n,)."""

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


def probe(sampler: str, start: Callable[[], Solver], first: int = 0, reach: int = 1) -> Schedule:
    """The table of a solver. `start` makes a new one; two are run.

    `first` is the row at which the solver begins; earlier rows are zeros. `reach`, 1 or 2, is how many earlier rows
    the solver may use. Raises ValueError if the solver is not linear, uses more of them, or gives numbers that are not
    finite.
    """
    solver = start()
    table = np.zeros((len(solver.times), len(Schedule.COLUMNS)))
    older = np.zeros((len(table), 2))
    with np.errstate(all="ignore"):
        for step in range(first, len(table)):
            table[step], older[step] = _read_row(solver, step, reach, table[max(first, step - reach) : step])
    entry = np.asarray([solver.entry(step) for step in range(len(table))], np.float64).reshape(len(table), 2)
    schedule = Schedule(sampler, float(solver.noise_scale), table, entry, older if older.any() else None)
    if (
        not len(table)
        or not all(np.isfinite(numbers).all() for numbers in (table, entry, older))
        or not np.isfinite(schedule.noise_scale)
    ):
        raise ValueError(f"sampler {sampler!r} has no finite table at {len(table)} steps")
    _verify(schedule, start(), first, 2 * reach + 3)
    return schedule


def _read_row(solver: Solver, step: int, reach: int, before: Vector) -> tuple[Vector, Vector]:
    """One row of the table, and of `older`; `before` holds up to `reach` earlier rows.

    State and output occupy one pair of components, which moves on at every step. So what a solver remembers of earlier
    steps shows up in pairs of its own. The last component holds the noise alone.
    """
    here, noisy = _pair(step, reach), 2 * reach + 2
    state, output = np.zeros((2, noisy + 1))
    state[here] = output[here + 1] = 1.0
    c_in = solver.scale(step, state)[here]
    stepped = solver.step(step, state, output)
    s = stepped.state[noisy] / stepped.noise[noisy] if stepped.noise[noisy] else 0.0
    clean = stepped.state - s * stepped.noise
    h, p, h2 = 0.0, 0.0, 0.0
    if len(before):
        h, p = _history(before[-1, 4:6], clean[_pair(step - 1, reach) :][:2])
    if len(before) > 1:
        h2, _ = _history(before[-2, 4:6], clean[_pair(step - 2, reach) :][:2])
    row = [solver.times[step], c_in, *clean[here : here + 2], *stepped.x0[here : here + 2], h, s]
    return np.array(row), np.array([p, h2])


def _pair(step: int, reach: int) -> int:
    return 2 * (step % (reach + 1))


def _history(x0_before: Vector, seen: Vector) -> tuple[float, float]:
    """Weights of an earlier row's x0 and of its state, as seen in the new state.

    Without a part of the state alone, the weight of x0 is read where x0 was larger.
    """
    larger = int(np.argmax(np.abs(x0_before)))
    weight = float(seen[larger] / x0_before[larger])
    if np.abs(seen - weight * x0_before).max() <= _TOLERANCE * max(np.abs(seen).max(), _TOLERANCE):
        return weight, 0.0
    weight = float(seen[1] / x0_before[1])
    return weight, float(seen[0] - weight * x0_before[0])


def _verify(schedule: Schedule, solver: Solver, first: int, width: int) -> None:
    """Compare a new solver on large random states with the table.

    This finds clipping and longer memory. Raises ValueError.
    """
    random = np.random.default_rng(0)
    x0_before = x0_older = state_before = np.zeros(width)
    older = np.zeros((len(schedule.table), 2)) if schedule.older is None else schedule.older
    for step in range(first, len(schedule.table)):
        (_, c_in, a, b, c, d, h, s), (p, h2) = schedule.table[step], older[step]
        state, output = (_AMPLITUDE * random.standard_normal((2, width))).astype(np.float32).astype(np.float64)
        seen = solver.scale(step, state)
        stepped = solver.step(step, state, output)
        terms = np.array([a * state, b * output, h * x0_before, p * state_before, h2 * x0_older, s * stepped.noise])
        x0_terms = np.array([c * state, d * output])
        x0_older, x0_before, state_before = x0_before, stepped.x0, state
        if not (_agree(stepped.state, terms) and _agree(stepped.x0, x0_terms) and _agree(seen, c_in * state[None])):
            raise ValueError(
                f"sampler {schedule.sampler!r} is not linear at step {step}: clipping, thresholding or memory"
            )


def _agree(seen: Vector, terms: NDArray[np.float64]) -> bool:
    slack = _TOLERANCE * (1.0 + np.abs(terms).sum(axis=0))
    return bool((np.abs(seen - terms.sum(axis=0)) <= slack).all())
