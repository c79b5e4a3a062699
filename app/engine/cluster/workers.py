"""What a coordinator knows of a worker, and the worker of this process.

Owns the `Worker` protocol. Its arguments and results are plain values, so that a worker may be in another process.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from app.engine.config import EngineConfig
from app.engine.cost_model import CostModel
from app.engine.local import ModelLoader
from app.engine.protocols import EngineStats, PanelScorer
from app.engine.registry.served_engine import Work
from app.engine.segments.engine import SegmentEngine
from app.engine.segments.messages import Kept, Segment, SegmentDone
from app.engine.warmup import Progress
from app.errors import Draining, EngineDead, EngineFailed
from models.protocols import Calibration, GeneratorInfo, ScorerInfo
from models.protocols.upscaling import UpscalerInfo

LIVE_ROWS = 1024
"""Rows that a worker may run at once: more than it is ever given."""

START_POLL_S = 0.02
"""Seconds between looks at a worker that loads its models."""

OnStep: TypeAlias = Callable[[int | Kept], None]
"""Receives the steps that all rows of a segment have made, or their latents."""


class WorkerLost(Exception):
    """The worker, its process or its machine is gone; what it ran must run elsewhere."""


class WorkerLeft(WorkerLost):
    """The worker takes no more work.

    It has not begun what was sent now; what it began before may end.
    """


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The models of a worker, and what its device calls cost."""

    generator: GeneratorInfo
    scorer: ScorerInfo
    calibration: Calibration | None
    panel: tuple[PanelScorer, ...]
    upscaler: UpscalerInfo | None
    costs: CostModel

    @property
    def revisions(self) -> tuple[object, ...]:
        """What must be equal on all workers, or their candidates would differ."""
        scorers = tuple((each.info.id, each.info.revision, each.role) for each in self.panel)
        generator = self.generator
        return generator.id, generator.revision, generator.prediction_type, scorers, self.calibration


class Worker(Protocol):
    """A device with its own models, which runs segments.

    Call the methods on the event loop's thread.
    """

    @property
    def name(self) -> str:
        """Its name, such as the device."""
        ...

    @property
    def info(self) -> WorkerInfo:
        """The loaded models. Raises Loading and EngineDead."""
        ...

    async def start(self, on_lost: Callable[[BaseException], None]) -> None:
        """Load the models; again after a loss.

        `on_lost` is called once if the worker is lost afterwards. Raises the error of loading.
        """
        ...

    async def run(self, segment: Segment, on_step: OnStep) -> SegmentDone:
        """Run a segment.

        Raises WorkerLost, CancelledError after `cancel`, and the error of the segment.
        """
        ...

    def cancel(self, segment_id: str) -> None:
        """Drop a segment. Ignores unknown and ended ones."""
        ...

    def forget(self, generation_id: str) -> None:
        """Drop what is remembered of a generation that has ended."""
        ...

    async def call(self, name: str, *args: Any) -> Any:
        """The result of a one-off method of `Engine`, such as `decode`. Raises WorkerLost."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot of its device."""
        ...

    async def close(self) -> None:
        """Stop it."""
        ...


class InProcessWorker:
    """A worker of this process: a thread with its own copy of the models.

    `load` runs on that thread. The other arguments are as in `LocalEngine`. See `Worker`.
    """

    def __init__(
        self,
        name: str,
        load: ModelLoader,
        config: EngineConfig,
        progress: Progress | None = None,
        turns: AbstractContextManager[None] | None = None,
    ) -> None:
        self._name = name
        self._load = load
        self._config = replace(config, live_rows=LIVE_ROWS)
        self._progress = progress
        self._turns = turns
        self._past = Work()
        self._engine = self._made(lambda _: None)

    @property
    def name(self) -> str:
        """See `Worker`."""
        return self._name

    @property
    def info(self) -> WorkerInfo:
        """See `Worker`."""
        engine = self._engine
        return WorkerInfo(
            engine.generator, engine.scorer, engine.calibration, engine.panel, engine.upscaler, engine.costs
        )

    async def start(self, on_lost: Callable[[BaseException], None]) -> None:
        """See `Worker`."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(reason: BaseException) -> None:
            if ready.done():
                on_lost(reason)
            else:
                ready.set_exception(reason if isinstance(reason, Exception) else EngineFailed(repr(reason)))

        before = self._engine.stats()
        self._past, self._engine = self._past.after(before), self._made(end)
        if before.dead:
            await asyncio.to_thread(_collect)
        self._engine.start()
        while not ready.done() and not self._engine.stats().ready:
            await asyncio.wait([ready], timeout=START_POLL_S)
        if ready.done():
            await ready
        ready.cancel()

    async def run(self, segment: Segment, on_step: OnStep) -> SegmentDone:
        """See `Worker`."""
        try:
            return await self._engine.run_segment(segment, on_step)
        except (EngineDead, Draining) as error:
            raise WorkerLost(str(error)) from error

    def cancel(self, segment_id: str) -> None:
        """See `Worker`."""
        self._engine.cancel(segment_id)

    def forget(self, generation_id: str) -> None:
        """See `Worker`."""
        self._engine.forget(generation_id)

    async def call(self, name: str, *args: Any) -> Any:
        """See `Worker`."""
        try:
            return await getattr(self._engine, name)(*args)
        except EngineDead as error:
            raise WorkerLost(str(error)) from error

    def stats(self) -> EngineStats:
        """See `Worker`. Counters go on after a loss."""
        return self._past.added(self._engine.stats())

    async def close(self) -> None:
        """See `Worker`."""
        await self._engine.close(0)

    def _made(self, on_death: Callable[[BaseException], None]) -> SegmentEngine:
        return SegmentEngine(self._load, self._config, on_death, self._progress, self._turns)


def _collect() -> None:
    """Free what refers to lost models in cycles, also what the server froze."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
