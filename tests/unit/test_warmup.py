"""Costs of device calls, measured within a time budget at start and learnt while serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.errors import OutOfDeviceMemory
from models.protocols import Images, Latent, Models, StepRow
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.engine_kit import Bench, spec


def test_measure_learns_a_cost_for_every_bucket_and_runs_short_of_memory_quietly() -> None:
    bench = Bench(EngineConfig(buckets=(1, 2, 4, 8)), max_rows=4)
    bench.core.measure()
    assert set(bench.generator.sizes) == {1, 2, 4}
    assert [size for size, _ in bench.core.costs.step] == [1, 2, 4, 8]
    with pytest.raises(OutOfDeviceMemory):
        Bench(max_rows=0).core.measure()


class Paced(InstrumentedGenerator):
    """Calls take the seconds of their size on a clock of its own, and some of them what else happens to go on."""

    def __init__(self, step: float = 0.010, row: float = 0.001, decode: float = 0.0, **more: Any) -> None:
        super().__init__()
        self.now = 0.0
        self.step_s, self.row_s, self.decode_s = step, row, decode
        self.meanwhile: dict[int, float] = more.get("meanwhile", {})
        self.first_s: float = more.get("first", 0.0)
        self.decoded: list[int] = []
        self.guided: set[bool] = set()

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        first = 0.0 if size in self.sizes else self.first_s
        self.now += self.step_s + self.row_s * size + first + self.meanwhile.get(len(self.sizes), 0.0)
        self.guided |= {row.negative is not None for row in rows}
        return super().step(rows, size)

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        self.now += self.decode_s * len(latents)
        self.decoded.append(len(latents))
        return super().decode(latents, preview=preview)


def measured(generator: Paced, **config: Any) -> EngineCore:
    core = EngineCore(Models(generator, FakeScorer()), EngineConfig(**config), clock=lambda: generator.now)
    core.measure()
    return core


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param({0: 3.0, 2: 2.0, 4: 2.0}, id="the first call of a size builds its kernels"),
        pytest.param({5: 0.5, 7: 0.5}, id="other work on the machine while two sizes were timed"),
    ],
)
def test_measure_does_not_take_a_slow_moment_for_the_cost_of_a_batch(meanwhile: dict[int, float]) -> None:
    core = measured(Paced(meanwhile=meanwhile))
    assert dict(core.costs.step) == pytest.approx({b: 0.010 + 0.001 * b for b in EngineConfig().buckets})


def test_a_device_whose_calls_take_seconds_makes_one_step_and_one_decode_at_start() -> None:
    generator = Paced(step=0.0, row=8.0, decode=25.0)
    core = measured(generator)
    assert (generator.sizes, generator.decoded) == ([1], [1])
    assert dict(core.costs.finish) == dict(core.costs.preview) == {1: 25.0}
    assert core.costs.step[0] == (1, 8.0)


def test_no_further_call_is_made_that_is_not_expected_to_fit() -> None:
    generator = Paced(step=0.0, row=2.0, decode=5.0)
    measured(generator, warmup_s=20.0)
    assert generator.now <= 20.0
    assert (generator.sizes, generator.decoded) == ([1, 1], [1, 1, 1])
    generator = Paced()
    measured(generator, warmup_s=0.0)
    assert (generator.sizes, generator.decoded) == ([1], [1])


def test_on_a_quick_device_few_calls_tell_enough() -> None:
    generator = Paced(decode=0.010)
    core = measured(generator)
    assert generator.sizes == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]
    assert generator.decoded == [1] * 4 + [8] * 4
    assert dict(core.costs.finish) == pytest.approx({1: 0.010, 8: 0.080})
    generator = Paced(row=0.020, decode=0.010)
    measured(generator)
    assert max(generator.sizes) == 4, "a call of 8 takes 0.17 s and would pass the seconds for it"


def test_a_model_that_needs_no_guidance_is_timed_without() -> None:
    class Turbo(Paced):
        @property
        def info(self) -> Any:
            from dataclasses import replace

            return replace(super().info, guidance_scale=0.0)

    for generator, guided in ((Paced(), True), (Turbo(), False)):
        measured(generator)
        assert generator.guided == {guided}


def test_costs_are_learnt_while_serving() -> None:
    generator = Paced(step=0.5, row=0.05, decode=8.0, first=12.0)
    core = measured(generator)
    assert dict(core.costs.step)[1] == pytest.approx(12.55), "its first call built what it needs"
    for place in range(4):
        core.submit(spec(f"gen_{place}", n_candidates=8, steps=8, guidance_scale=2.0), 0.0)
    while not core.idle:
        core.tick()
    learnt = dict(core.costs.step)
    assert learnt.pop(1) <= learnt[2], "never used again, but no dearer than two rows"
    assert learnt == pytest.approx({b: 0.5 + 0.05 * b for b in EngineConfig().buckets[1:]})
    assert max(generator.sizes) == 32
    assert core.costs.finish[0][1] == pytest.approx(8.0)


def test_rows_of_another_size_or_guidance_teach_nothing() -> None:
    core = measured(Paced(decode=0.010))
    before = core.costs
    for width, guidance in ((32, 2.0), (64, 1.0)):
        core.submit(spec(n_candidates=3, steps=4, width=width, guidance_scale=guidance), 0.0)
        while not core.idle:
            core.tick()
    assert core.costs is before


def test_costs_stay_what_they_are_until_they_move_by_a_tenth() -> None:
    generator = Paced(decode=0.010)
    core = measured(generator)
    before, plans = core.costs, []
    for pace in (0.97, 0.5):
        generator.step_s, generator.row_s = 0.010 * pace, 0.001 * pace
        core.submit(spec(n_candidates=8, steps=8, guidance_scale=2.0), 0.0)
        while not core.idle:
            core.tick()
        plans.append(core.costs is before)
    assert plans == [True, False], "plans for pruning are made for costs, and take a second"


def test_every_part_of_the_timing_is_reported_as_it_begins() -> None:
    parts: list[tuple[str, int, int]] = []
    bench = Bench()
    bench.core.measure(lambda part: parts.append((part, len(bench.generator.sizes), len(bench.scorer.calls))))
    assert parts[:2] == [("timing a step", 0, 0), ("timing a decode", 1, 0)]
    assert [part for part, _, _ in parts[2:]] == ["timing larger calls"]
