"""Clusters on the fakes: workers with faults, and outcomes of one device."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from app.domain import GenerationSpec
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.workers import InProcessWorker, OnStep, Worker
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Failed, Outcome, Succeeded
from app.engine.segments import codec
from app.engine.segments.messages import Segment, SegmentDone
from models.protocols import Latent, Models, StepRow
from models.protocols.image_inputs import ImageInputs
from models.synthetic.members import ColourJudge, RandomFeatureScorer
from tests.synthetic_models import InstrumentedGenerator, InstrumentedScorer, InstrumentedSteering
from tests.unit.engine_kit import Inbox

CONFIG = EngineConfig(warmup_s=0.0, timed_s=0.0)


class Killed(BaseException):
    """Ends an engine's thread, as a crash of a device does."""


@dataclass
class Faults:
    """What goes wrong on workers, by name. Changed by tests at any time.

    Denoiser calls of rows with a `deadly` seed end the worker, of those with a `broken` one they raise, on the workers
    in `broken_on`. `kill` holds workers that end at their next call, `die_at` a row's step at which they end. `stuck`
    workers wait for `released` in their next call. Workers in `slow` take so many seconds more per call.
    """

    deadly: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    broken_on: set[str] = field(default_factory=set)
    kill: set[str] = field(default_factory=set)
    die_at: dict[str, int] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    slow: dict[str, float] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)
    began: dict[str, int] = field(default_factory=dict)


class FaultyGenerator(InstrumentedGenerator):
    """The synthetic generator on a worker of this name."""

    def __init__(self, name: str, faults: Faults, delay_s: float) -> None:
        super().__init__(delay_s=delay_s)
        self._name, self._faults = name, faults

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        faults, seeds = self._faults, {row.seed for row in rows}
        faults.began[self._name] = faults.began.get(self._name, 0) + 1
        if max(row.step for row in rows) >= faults.die_at.get(self._name, 10_000):
            del faults.die_at[self._name]
            faults.kill.add(self._name)
        if self._name in faults.kill or seeds & faults.deadly:
            faults.kill.discard(self._name)
            faults.deaths.append(self._name)
            raise Killed(self._name)
        if self._name in faults.broken_on and seeds & faults.broken:
            raise RuntimeError("a fake failure")
        if self._name in faults.stuck:
            faults.stuck.discard(self._name)
            assert faults.released.wait(60)
        threading.Event().wait(faults.slow.get(self._name, 0.0))
        return super().step(rows, size)


def models(name: str = "one", faults: Faults | None = None, delay_s: float = 0.0, members: bool = False) -> Models:
    others = {"members": (RandomFeatureScorer(), ColourJudge()), "referee": RandomFeatureScorer(3)} if members else {}
    generator = FaultyGenerator(name, faults or Faults(), delay_s)
    return Models(generator, InstrumentedScorer(), steering=InstrumentedSteering(), **others)  # type: ignore[arg-type]


class KeepingGenerator(FaultyGenerator):
    """Cannot export its latents, like a pipeline behind the gate."""

    export = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name in {"export", "restore"}:
            raise AttributeError(name)
        return super().__getattribute__(name)


class FarWorker(InProcessWorker):
    """Sends every message as bytes, as to another process."""

    async def run(self, segment: Segment, on_step: OnStep) -> SegmentDone:
        result = await super().run(codec.decode(codec.encode(segment)), on_step)
        found: SegmentDone = codec.decode(codec.encode(result))
        return found


@asynccontextmanager
async def cluster(
    workers: int,
    faults: Faults | None = None,
    *,
    delay_s: float = 0.0,
    make: Callable[[str], Models] | None = None,
    worker: type[InProcessWorker] = InProcessWorker,
    capacity: int = 512,
    max_attempts: int = 2,
) -> AsyncIterator[ClusterEngine]:
    faults = faults or Faults()
    load = make or (lambda name: models(name, faults, delay_s))

    def made(name: str) -> Worker:
        return worker(name, lambda: load(name), CONFIG)

    config = EngineConfig(capacity=capacity)
    engine = ClusterEngine([made(f"w{i}") for i in range(workers)], config, lambda _: None, max_attempts=max_attempts)
    engine.start()
    while not engine.stats().ready:
        assert not engine.stats().dead
        await asyncio.sleep(0.002)
    try:
        yield engine
    finally:
        faults.released.set()
        await engine.close(0)


async def race(engine: ClusterEngine, one: GenerationSpec, inputs: ImageInputs | None = None) -> tuple[Outcome, Inbox]:
    inbox = Inbox()
    engine.submit(one, inbox, inputs=inputs)
    return await inbox.outcome(), inbox


def alone(one: GenerationSpec, inputs: ImageInputs | None = None, given: Models | None = None) -> Outcome:
    """The outcome of one device."""
    core = EngineCore(given or models(), EngineConfig(), clock=lambda: 0.0)
    core.submit(one, 0.0, inputs=inputs)
    while not core.idle:
        for _, update in core.tick():
            assert not isinstance(update, Failed), update.error
            if isinstance(update, Succeeded):
                return update.outcome
    raise AssertionError("the generation did not end")


def assert_same(one: Outcome, other: Outcome) -> None:
    """Candidates, arrays, images and work of two outcomes are equal to the last bit."""
    assert one.candidates == other.candidates
    assert (one.margin, one.low_confidence, one.stopped, one.regret) == (
        other.margin,
        other.low_confidence,
        other.stopped,
        other.regret,
    )
    assert one.notices == other.notices
    assert one.work == other.work
    assert dict(one.left_out) == dict(other.left_out)
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    np.testing.assert_array_equal(one.latents, other.latents)
    np.testing.assert_array_equal(one.query.prompt, other.query.prompt)
    pairs: list[tuple[Any, Any]] = [(one.images, other.images), (one.members, other.members)]
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name])


__all__ = ["ClusterEngine", "InProcessWorker", "replace"]
