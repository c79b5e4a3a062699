"""Probing: any linear solver becomes its table, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import InitImage
from models.generators.solver_coefficients import SolverStep, Vector, probe, quadratic_times
from models.protocols import QUADRATIC, Schedule, steps_left, time_done
from models.synthetic.generator import PREDICTIONS, SAMPLERS, FakeGenerator

COLUMN = {name: index for index, name in enumerate(Schedule.COLUMNS)}


class TableSolver:
    """A solver that follows a table and remembers the x0 of the step before, as a scheduler object would."""

    def __init__(self, schedule: Schedule, clip: float | None = None) -> None:
        self.table = schedule.table
        self.entries = schedule.entry
        self.noise_scale = schedule.noise_scale
        self.clip = clip
        self.x0: Vector | None = None
        self.random = np.random.default_rng(7)

    @property
    def times(self) -> Sequence[float]:
        return [float(t) for t in self.table[:, 0]]

    def scale(self, step: int, state: Vector) -> Vector:
        return np.asarray(self.table[step, COLUMN["c_in"]] * state)

    def entry(self, step: int) -> tuple[float, float]:
        return float(self.entries[step, 0]), float(self.entries[step, 1])

    def step(self, step: int, state: Vector, output: Vector) -> SolverStep:
        _, _, a, b, c, d, h, s = self.table[step]
        x0 = c * state + d * output
        if self.clip is not None:
            x0 = np.clip(x0, -self.clip, self.clip)
        noise = self.random.standard_normal(state.shape) if s else np.zeros_like(state)
        memory = h * self.x0 if self.x0 is not None else 0.0
        after = a * state + b * output + memory + s * noise
        self.x0 = x0
        return SolverStep(np.asarray(after), np.asarray(x0), noise)


class LongMemory(TableSolver):
    """Also looks two steps back, as third-order solvers do."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.older: list[Vector] = []

    def step(self, step: int, state: Vector, output: Vector) -> SolverStep:
        stepped = super().step(step, state, output)
        older = self.older[-2] if len(self.older) > 1 else np.zeros_like(state)
        self.older.append(stepped.x0)
        return SolverStep(stepped.state + 0.1 * older, stepped.x0, stepped.noise)


def random_schedule(steps: int, seed: int) -> Schedule:
    random = np.random.default_rng(seed)
    table = random.uniform(0.2, 2.0, (steps, len(Schedule.COLUMNS))) * random.choice([-1, 1], (steps, 8))
    table[:1, COLUMN["h"]] = 0.0
    return Schedule("random", 1.5, table, random.uniform(0.1, 1.0, (steps, 2)))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 50])
def test_a_known_solver_gives_back_its_table(sampler: str, prediction: str, steps: int) -> None:
    known = FakeGenerator(prediction_type=prediction).schedule(sampler, steps, 64, 64)
    found = probe(sampler, lambda: TableSolver(known))
    np.testing.assert_allclose(found.table, known.table, rtol=1e-9, atol=1e-9)
    assert (found.sampler, found.steps, found.noise_scale) == (sampler, steps, known.noise_scale)


@given(steps=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_any_linear_solver_with_memory_and_noise_gives_back_its_table(steps: int, seed: int) -> None:
    known = random_schedule(steps, seed)
    found = probe("random", lambda: TableSolver(known))
    np.testing.assert_allclose(found.table, known.table, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping_is_refused(sampler: str) -> None:
    known = FakeGenerator().schedule(sampler, 8, 64, 64)
    with pytest.raises(ValueError, match=f"{sampler}.*not linear"):
        probe(sampler, lambda: TableSolver(known, clip=1.0))


def test_memory_longer_than_one_step_is_refused() -> None:
    known = FakeGenerator().schedule("dpmpp_2m", 8, 64, 64)
    with pytest.raises(ValueError, match="not linear"):
        probe("long", lambda: LongMemory(known))


def test_a_table_that_is_not_finite_is_refused() -> None:
    known = random_schedule(4, 0)
    known.table[2, COLUMN["b"]] = np.inf
    with pytest.raises(ValueError, match="no finite table"):
        probe("broken", lambda: TableSolver(known))


def test_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite table at 0 steps"):
        probe("none", lambda: TableSolver(random_schedule(0, 0)))


@given(last=st.integers(1, 2000), share=st.floats(0, 1))
def test_quadratic_times_fall_from_the_last_and_are_all_different(last: int, share: float) -> None:
    times = quadratic_times(max(1, int(last * share)), last)
    assert times[0] == last - 1
    assert times[-1] >= 0
    assert all(a > b for a, b in pairwise(times))


def test_quadratic_steps_are_spent_on_what_is_nearly_clean() -> None:
    assert quadratic_times(4) == [999, 561, 249, 61]
    assert [1 - time_done(QUADRATIC, share) for share in (0, 0.25, 0.5, 0.75, 1)] == [1, 0.5625, 0.25, 0.0625, 0]
    assert time_done("ddim", 0.3) == pytest.approx(0.3)


@given(sampler=st.sampled_from(SAMPLERS), time=st.floats(0, 1))
def test_steps_left_reads_time_done_backwards(sampler: str, time: float) -> None:
    assert 1 - time_done(sampler, 1 - steps_left(sampler, time)) == pytest.approx(time, abs=1e-9)


@pytest.mark.parametrize(
    ("sampler", "strength", "made"),
    [("ddim", 0.5, 8), ("ddim", 0.01, 1), ("ddim", 0, 0), (QUADRATIC, 0.5, 11), (QUADRATIC, 1, 16), (QUADRATIC, 0, 0)],
)
def test_a_strength_is_a_share_of_the_time_not_of_the_steps(sampler: str, strength: float, made: int) -> None:
    assert InitImage(strength, (1,), "").steps_made(sampler, 16) == made
    if 0 < made < 16:
        assert FakeGenerator().schedule(sampler, 16, 64, 64).table[16 - made, 0] <= max(1000 * strength, 62.5)
