"""What fleets of fixed and of joining workers share.

Owns the slots, the comparison of their speeds, and background tasks.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from app.engine.cluster.dispatcher import Dispatcher
from app.engine.cluster.slots import Slot
from app.engine.cluster.workers import WorkerInfo
from app.engine.cost_model import CostModel
from app.engine.registry.served_engine import Work

COMPARED_ROWS = 8
"""Rows of the call by which the workers' speeds are compared."""


class Crew(ABC):
    """Workers that hold the same models. `info` is None until they are known.

    `refused` are names of workers that may not take part, with the reason. `past` is the work of those that have gone.
    """

    def __init__(self, slots: list[Slot], max_attempts: int) -> None:
        self.slots = slots
        self.dispatcher = Dispatcher(self.slots, max_attempts, self.lose)
        self.info: WorkerInfo | None = None
        self.refused: dict[str, str] = {}
        self.past = Work()
        self._fastest: Slot | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def costs(self) -> CostModel:
        """What device calls cost on the fastest worker."""
        assert self.dispatcher.pace.costs is not None
        return self.dispatcher.pace.costs

    @property
    def usable(self) -> bool:
        """Whether chunks run now, or as soon as a worker has joined."""
        return bool(self.dispatcher.alive)

    @abstractmethod
    def start(self) -> None:
        """Start all workers; returns immediately."""

    @abstractmethod
    def lose(self, slot: Slot, reason: BaseException) -> None:
        """A worker is gone: its chunks run elsewhere."""

    @property
    @abstractmethod
    def part(self) -> str:
        """The current part of the start-up, or `ready`."""

    @abstractmethod
    async def wait_usable(self) -> None:
        """Wait for a worker, if one is on its way."""

    async def close(self) -> None:
        """Stop all workers."""
        self._closed = True
        self.dispatcher.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(slot.worker.close() for slot in self.slots))

    def refresh_costs(self) -> None:
        """Take over what the fastest worker has learnt while serving."""
        if self._fastest is not None and self._fastest.alive:
            self.dispatcher.pace.costs = self._fastest.worker.info.costs

    def _compare_speeds(self) -> None:
        infos = {slot: slot.worker.info for slot in self.dispatcher.alive}
        seconds = {slot: max(info.costs.steps(COMPARED_ROWS), 1e-9) for slot, info in infos.items()}
        self._fastest = fastest = min(seconds, key=lambda slot: seconds[slot])
        self.dispatcher.pace.costs = infos[fastest].costs
        for slot, each in seconds.items():
            slot.reset(each / seconds[fastest], perf_counter())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
