"""Attended generations: cancelled when no client follows them for a grace period.

The replica that serves the stream records this in the database; any replica cancels unattended generations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from app.domain import Generation
from app.errors import StoreUnavailable
from app.stores.protocols import GenerationStore

WRITES_PER_GRACE_PERIOD = 5
"""Database writes per grace period."""


class Attendance:
    """See the module.

    `cancel` ends a generation that is still unattended after `span_s`.
    """

    def __init__(
        self, records: GenerationStore, grace_s: float, cancel: Callable[[str, float], Awaitable[None]]
    ) -> None:
        self._records = records
        self._cancel = cancel
        self._pause_s = grace_s / WRITES_PER_GRACE_PERIOD
        self._span_s = grace_s + self._pause_s

    @contextmanager
    def following(self, generation: Generation) -> Iterator[None]:
        """Record that a client follows the generation during this block."""
        if not generation.attended or generation.status.is_final:
            yield
            return
        with self.waiting(generation.id):
            yield

    @contextmanager
    def waiting(self, generation_id: str) -> Iterator[None]:
        """The same for a generation that is known to be open and `attended`."""
        noting = asyncio.create_task(self._record(generation_id), name=f"attend {generation_id}")
        try:
            yield
        finally:
            noting.cancel()

    async def _record(self, generation_id: str) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            with suppress(StoreUnavailable):
                await self._records.record_attendance(generation_id)

    async def run(self) -> None:
        """Cancel unattended generations, until cancelled.

        After a start or a store outage, clients get a whole period, since their attendance could not be recorded.
        """
        pause_s = self._span_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self._pause_s
            try:
                for generation_id in await self._records.list_unattended(self._span_s):
                    await self._cancel(generation_id, self._span_s)
            except StoreUnavailable:
                pause_s = self._span_s
