"""One race over several workers, on simulated devices.

`python -m tests.bench.cluster`. A call of a device sleeps by a cost model, so that the figures show the coordination
and not this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count

from app.domain import Checkpoint, GenerationSpec
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.workers import InProcessWorker
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.protocols import Cancelled, Engine, Failed, Outcome, Succeeded, Update
from models.protocols import Images, Latent, Models, StepRow
from models.synthetic.generator import FakeGenerator, FakeLatent
from models.synthetic.scorer import FakeScorer
from tests.bench.kit import RESULTS, Figure, machine, store, table

CALL_S, ROW_S = 0.020, 0.002
"""Seconds of a denoiser call, and of each padded row in it; half of both to decode."""

CONFIG = EngineConfig(warmup_s=5.0, timed_s=1.0)
WEIGHTS = f"simulated device, {1000 * CALL_S:g} ms + {1000 * ROW_S:g} ms a row"
SPEED_UP = {"all 64": {2: 1.8, 4: 3.0, 8: 4.0}, "64 to 24 to 8": {2: 1.6, 4: 2.2, 8: 2.6}}
CUTS = {"all 64": (), "64 to 24 to 8": (Checkpoint(6, 24), Checkpoint(12, 8))}


class Dead(BaseException):
    """Ends the thread of a worker."""


class SimulatedDevice(FakeGenerator):
    """Calls take `factor` times the seconds of the cost model; `die` ends the thread.

    Steps leave the noise as it is, so that the processor of this machine is hardly used.
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.die = False

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        if self.die:
            self.die = False
            raise Dead
        end = time.perf_counter() + self.factor * (CALL_S + ROW_S * size)
        made = [FakeLatent(row.latent.x, row.latent.x) for row in rows]
        _sleep_until(end)
        return made

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        end = time.perf_counter() + self.factor * (CALL_S + ROW_S * len(latents)) / 2
        made = super().decode(latents, preview=preview)
        _sleep_until(end)
        return made


def _sleep_until(end: float) -> None:
    time.sleep(max(0.0, end - time.perf_counter()))


def race_of(kind: str, name: str = "gen_bench") -> GenerationSpec:
    """A generation of 64 candidates and 20 steps."""
    return GenerationSpec(
        id=name,
        prompt="a red apple on green",
        negative_prompt="blue",
        n_candidates=64,
        n=4,
        width=64,
        height=64,
        steps=20,
        guidance_scale=2.0,
        sampler="dpmpp_2m",
        seed=1234,
        checkpoints=CUTS[kind],
    )


class Timed:
    """An engine on simulated devices, timed one race at a time."""

    def __init__(self, engine: Engine, devices: Sequence[SimulatedDevice]) -> None:
        self.engine, self.devices = engine, devices
        self._names = count()

    async def run(self, kind: str, during: Callable[[], Awaitable[None]] | None = None) -> tuple[float, Outcome]:
        """Seconds of a race, and its outcome; `during` runs beside it."""
        ended: asyncio.Future[Update] = asyncio.get_running_loop().create_future()

        def sink(updates: Sequence[Update]) -> None:
            if isinstance(updates[-1], Succeeded | Failed | Cancelled):
                ended.set_result(updates[-1])

        started = time.perf_counter()
        self.engine.submit(race_of(kind, f"gen_{next(self._names)}"), sink)
        if during is not None:
            await during()
        last = await ended
        assert isinstance(last, Succeeded), last
        return time.perf_counter() - started, last.outcome

    async def median(self, kind: str, runs: int) -> float:
        """Median seconds of races after a first one."""
        await self.run(kind)
        return statistics.median([(await self.run(kind))[0] for _ in range(runs)])


async def ready(engine: LocalEngine | ClusterEngine) -> None:
    """Start an engine and wait for its models."""
    engine.start()
    while not engine.stats().ready:
        await asyncio.sleep(0.01)


async def local() -> Timed:
    """One device without a coordinator."""
    device = SimulatedDevice()
    engine = LocalEngine(lambda: Models(device, FakeScorer()), CONFIG, lambda _: None)
    await ready(engine)
    return Timed(engine, [device])


async def cluster(factors: Sequence[float]) -> Timed:
    """Workers with a device each, so many times slower."""
    devices = [SimulatedDevice(factor) for factor in factors]
    workers = [
        InProcessWorker(f"w{i}", lambda device=device: Models(device, FakeScorer()), CONFIG)  # type: ignore[misc]
        for i, device in enumerate(devices)
    ]
    engine = ClusterEngine(workers, CONFIG, lambda _: None)
    await ready(engine)
    return Timed(engine, devices)


async def measured(kinds: Sequence[str], runs: int) -> list[Figure]:
    """The figures of these races, each the median of `runs`."""
    figures = list[Figure]()
    for kind in kinds:
        async for figure in _figures(kind, runs):
            print(table([figure]), flush=True)
            figures.append(figure)
    return figures


async def _figures(kind: str, runs: int) -> AsyncIterator[Figure]:
    plain = await local()
    usual = await plain.median(kind, runs)
    _, wanted = await plain.run(kind)
    await plain.engine.close(0)
    seconds = dict[int, float]()
    for workers in (1, 2, 4, 8):
        timed = await cluster([1.0] * workers)
        seconds[workers] = await timed.median(kind, runs)
        _, outcome = await timed.run(kind)
        assert outcome.candidates == wanted.candidates
        await timed.engine.close(0)
        detail = {"runs": runs, "median_s": round(seconds[workers], 3), "local_s": round(usual, 3)}
        if workers == 1:
            ratio = seconds[1] / usual
            yield Figure(f"{kind}, 1 worker: wall time", ratio, "the local engine", at_most=1.03, detail=detail)
        else:
            ratio, wished = seconds[1] / seconds[workers], SPEED_UP[kind][workers]
            name = f"{kind}, {workers} workers: speed-up"
            yield Figure(name, ratio, "1 worker", at_least=wished, detail=detail)
    yield await _slow(kind, runs, seconds[4])
    yield await _killed(kind, runs, seconds[4], wanted)


async def _slow(kind: str, runs: int, usual: float) -> Figure:
    timed = await cluster([1.0, 1.0, 1.0, 4.0])
    slow = await timed.median(kind, runs)
    await timed.engine.close(0)
    detail = {"runs": runs, "median_s": [round(slow, 3), round(usual, 3)]}
    return Figure(f"{kind}, 1 of 4 workers 4 times slower", slow / usual, "4 equal ones", at_most=1.6, detail=detail)


async def _killed(kind: str, runs: int, usual: float, wanted: Outcome) -> Figure:
    took = []
    for _ in range(runs):
        timed = await cluster([1.0] * 4)
        await timed.run(kind)

        async def kill(device: SimulatedDevice = timed.devices[1]) -> None:
            await asyncio.sleep(usual / 3)
            device.die = True

        seconds, outcome = await timed.run(kind, kill)
        assert outcome.candidates == wanted.candidates
        took.append(seconds)
        await timed.engine.close(0)
    lost = statistics.median(took) - usual
    detail = {"runs": runs, "seconds": [round(each, 3) for each in took]}
    return Figure(f"{kind}, 1 of 4 workers dies: seconds lost", lost, "undisturbed", at_most=0.6, detail=detail)


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="races of every figure")
    parser.add_argument("--only", nargs="*", choices=list(SPEED_UP), default=list(SPEED_UP))
    parser.add_argument("--keep", action="store_true", help="store the figures")
    asked = parser.parse_args()
    logging.disable(logging.ERROR)  # workers die on purpose
    figures = asyncio.run(measured(asked.only, asked.runs))
    if asked.keep:
        store(RESULTS / "cluster.json", [replace(f, weights=WEIGHTS) for f in figures], machine(), WEIGHTS)


if __name__ == "__main__":
    main()
