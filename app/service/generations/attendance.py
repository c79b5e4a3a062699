"""Generations that are followed by a stream: they outlive it by a grace period, for the client that comes back.

While a client follows the stream, on whatever replica, that replica notes it in the database. Any replica cancels what
was not followed for longer than the grace period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from app.domain import Generation
from app.errors import StoreUnavailable
from app.stores.protocols import GenerationStore

NOTES = 5
"""Notes within one grace period."""


class Attendance:
    """See the module. `cancel` ends one that is still unattended after `span_s`."""

    def __init__(
        self, records: GenerationStore, grace_s: float, cancel: Callable[[str, float], Awaitable[None]]
    ) -> None:
        self._records = records
        self._cancel = cancel
        self._pause_s = grace_s / NOTES
        self._span_s = grace_s + self._pause_s

    @contextmanager
    def following(self, generation: Generation) -> Iterator[None]:
        """Note that a client follows it for as long as this block lasts."""
        if not generation.attended or generation.status.is_final:
            yield
            return
        noting = asyncio.create_task(self._note(generation.id), name=f"attend {generation.id}")
        try:
            yield
        finally:
            noting.cancel()

    async def _note(self, generation_id: str) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            with suppress(StoreUnavailable):
                await self._records.record_attendance(generation_id)

    async def run(self) -> None:
        """Cancel what nobody follows, until cancelled.

        At first, and after the store was out of reach, clients get the whole period: they could not be noted before.
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
