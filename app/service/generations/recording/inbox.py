"""Updates of the engine that wait to be recorded together.

Each may wait for others for a while. The recorder wakes once, when the first of them must be recorded.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from app.engine.protocols import Update


class UpdateInbox:
    """See the module. Use in one event loop; one task takes."""

    def __init__(self) -> None:
        self._updates = list[Update]()
        self._until = math.inf
        self._wake = asyncio.Event()
        self._timer: asyncio.Timeout | None = None

    def put(self, updates: Sequence[Update], within_s: float) -> None:
        """Add updates, which are to be taken within these seconds; 0 is at once."""
        self._updates += updates
        self._take_within(within_s)

    async def take(self, due_s: float | None) -> list[Update]:
        """All updates, when they must be recorded, or after `due_s`: then maybe none."""
        if due_s is not None:
            self._take_within(due_s)
        try:
            async with asyncio.timeout_at(self._until if self._until < math.inf else None) as self._timer:
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            self._timer = None
        updates, self._updates, self._until = self._updates, [], math.inf
        self._wake.clear()
        return updates

    def _take_within(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        if until >= self._until:
            return
        self._until = until
        if seconds <= 0:
            self._wake.set()
        elif self._timer is not None:
            self._timer.reschedule(until)
