"""The workers of a cluster: their starts, losses and restarts.

Owns the slots and what the workers must have in common. `dispatcher` gives them work.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence

from app.engine.cluster.crew import Crew
from app.engine.cluster.slots import Slot
from app.engine.cluster.workers import Worker
from app.errors import EngineFailed

log = logging.getLogger(__name__)

MAX_STARTS = 5
"""Consecutive losses or failed starts after which a worker is given up."""

RESTART_S = 0.5
"""Seconds before a lost worker is started again; doubled for each failure."""


class Fleet(Crew):
    """Workers that hold the same models. `info` is None until all have loaded.

    `on_death` is called once: when a worker cannot load at first, or when all are given up.
    """

    def __init__(self, workers: Sequence[Worker], max_attempts: int, on_death: Callable[[BaseException], None]) -> None:
        super().__init__([Slot(worker) for worker in workers], max_attempts)
        self._starting = 0
        self._on_death = on_death

    @property
    def part(self) -> str:
        """The current part of the start-up, or `ready`."""
        if self.info is not None:
            return "ready"
        worker = self.slots[self._starting].worker
        return f"{worker.name}, {self._starting + 1} of {len(self.slots)}: {worker.stats().part}"

    def start(self) -> None:
        """Start all workers; returns immediately."""
        self.dispatcher.start()
        self._spawn(self._start_all())

    async def wait_usable(self) -> None:
        """See `Crew`: no further worker joins."""

    def lose(self, slot: Slot, reason: BaseException) -> None:
        """A worker is gone: its chunks run elsewhere, and it is started again."""
        if not slot.alive or self._closed:
            return
        log.error("a worker was lost", extra={"worker": slot.worker.name}, exc_info=reason)
        slot.starts += 1
        self.dispatcher.lose(slot)
        if self.info is not None:
            self._spawn(self._restart(slot, reason))

    async def _start_all(self) -> None:
        """Start the workers one after another: loading uses process-wide state."""
        try:
            for number, slot in enumerate(self.slots):
                self._starting = number
                await self._start(slot)
            infos = [slot.worker.info for slot in self.slots]
        except Exception as error:
            self._on_death(error)
            return
        if len({info.revisions for info in infos}) > 1:
            self._on_death(EngineFailed("the workers hold different models: load the same weights on all of them"))
            return
        self._compare_speeds()
        self.info = infos[0]
        log.info("all workers are ready", extra={"workers": len(self.slots)})

    async def _start(self, slot: Slot) -> None:
        await slot.worker.start(lambda reason: self.lose(slot, reason))
        slot.alive, slot.suspect = True, False

    async def _restart(self, slot: Slot, reason: BaseException) -> None:
        """Start a lost worker again, up to `MAX_STARTS` times in a row."""
        while slot.starts < MAX_STARTS:
            await asyncio.sleep(RESTART_S * 2 ** (slot.starts - 1))
            try:
                await slot.worker.close()
                traceback.clear_frames(reason.__traceback__)  # they hold the lost models
                await slot.worker.start(lambda why: self.lose(slot, why))
            except Exception as error:
                slot.starts += 1
                reason = error
                log.warning("a worker did not start", extra={"worker": slot.worker.name}, exc_info=error)
                continue
            if self.info is not None and slot.worker.info.revisions != self.info.revisions:
                reason = EngineFailed("a worker came back with other models")
                break
            slot.alive = True
            self._compare_speeds()
            log.info("a worker is back", extra={"worker": slot.worker.name})
            self.dispatcher.pump()
            return
        slot.given_up = True
        log.error("a worker was given up", extra={"worker": slot.worker.name}, exc_info=reason)
        if all(each.given_up for each in self.slots):
            self._on_death(reason)
        await slot.worker.close()
