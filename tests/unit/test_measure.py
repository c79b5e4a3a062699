"""What the engine learns at load of what a denoiser call costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.errors import OutOfDeviceMemory
from models.protocols import Latent, Models, StepRow
from models.synthetic.fakes import FakeGenerator, FakeScorer
from tests.unit.engine_kit import Bench


def test_measure_learns_a_cost_for_every_bucket_and_runs_short_of_memory_quietly() -> None:
    bench = Bench(EngineConfig(buckets=(1, 2, 4, 8)), max_rows=4)
    bench.core.measure()
    assert set(bench.generator.sizes) == {1, 2, 4}
    with pytest.raises(OutOfDeviceMemory):
        Bench(max_rows=0).core.measure()


class Paced(FakeGenerator):
    """Calls take the seconds of their size on a clock of its own, and some of them what else happens to go on."""

    def __init__(self, meanwhile: dict[int, float]) -> None:
        super().__init__()
        self.now = 0.0
        self.meanwhile = meanwhile

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        self.now += 0.010 + 0.001 * size + self.meanwhile.get(len(self.sizes), 0.0)
        return super().step(rows, size)


@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param({0: 30.0, 2: 5.0, 4: 5.0}, id="the first call of a size builds its kernels"),
        pytest.param({5: 0.5, 7: 0.5}, id="other work on the machine while two sizes were timed"),
    ],
)
def test_measure_does_not_take_a_slow_moment_for_the_cost_of_a_batch(meanwhile: dict[int, float]) -> None:
    generator = Paced(meanwhile)
    core = EngineCore(Models(generator, FakeScorer()), EngineConfig(), clock=lambda: generator.now)
    core.measure()
    assert dict(core.costs.step) == pytest.approx({b: 0.010 + 0.001 * b for b in EngineConfig().buckets})
