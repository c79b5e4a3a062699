"""Image to image in the engine."""

from __future__ import annotations

import itertools

import pytest

from app.engine.latent_codec import encode_init_latents
from app.engine.protocols import Stepped
from tests.unit.engine_kit import Bench, alone, spec


@pytest.mark.parametrize(("strength", "made"), [(0.0, 0), (0.2, 1), (0.5, 3), (1.0, 6)])
def test_what_begins_as_a_picture_counts_the_steps_it_makes(strength: float, made: int) -> None:
    picture = alone(spec(n_candidates=1)).latents[0]
    ticks = itertools.count()
    bench = Bench(clock=lambda: float(next(ticks)))
    bench.submit(spec(n_candidates=2, start=encode_init_latents(picture, strength)))
    bench.run()
    told = [u for u in bench.updates["gen_a"] if isinstance(u, Stepped)]
    assert [(u.step, u.steps) for u in told] == [(step, made) for step in range(1, made + 1)]
    assert bench.outcome().work.rows_unpruned == 2 * made
    assert (bench.core.seconds_per_candidate > 0) == (made > 0)
