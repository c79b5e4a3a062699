"""Follow event logs: those of this process from memory, others from the store.

Another process stores progress only while it is asked to, so a follower asks. What was shown and never stored may be
missing on another replica; ends are stored first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from app.domain import Event, Generation
from app.errors import Draining, StoreUnavailable
from app.service.generations.event_log import EventLogReader, Notifier, wait_until_set
from app.service.generations.recording.recordings import Recordings
from app.service.generations.recording.supervisor import ProgressRequests
from app.stores.protocols import GenerationStore

POLL_S = 0.25
"""Seconds between log polls if another process runs the generation."""

NOTIFIED_POLL_S = 2.0
"""Seconds between log polls despite notifications."""

PROGRESS_POLL_S = 0.5
"""Seconds between polls for progress of another process, if ends are notified."""

STORE_RETRY_S = 30.0
"""Seconds a log watcher retries while the store is unavailable."""


class LogWatcher:
    """See the module.

    `get` returns a generation, or raises NotFound. `stopping` says whether this replica released its claims that many
    seconds ago.
    """

    def __init__(
        self,
        records: GenerationStore,
        notifier: Notifier,
        recordings: Recordings,
        get: Callable[[str], Awaitable[Generation]],
        stopping: Callable[[float], bool],
    ) -> None:
        self._records = records
        self._reader = EventLogReader(records)
        self._notifier = notifier
        self._recordings = recordings
        self._get = get
        self._stopping = stopping
        self.requests = ProgressRequests(records)

    async def known(self, generation: Generation, after: int) -> list[Event]:
        """Events after `after` that are known now. Raises StoreUnavailable."""
        found: list[Event] = []
        name, ended = generation.id, generation.status.is_final
        while page := await self._read(name, after, self._notifier.subscribe(name), ended=ended):
            found += page
            after = page[-1].seq
        return found

    async def wait_ended(self, generation_id: str, handover_wait_s: float) -> None:
        """`follow` for the end alone: no process stores progress for it."""
        async for _ in self.follow(generation_id, 0, handover_wait_s, progress=False):
            pass

    async def follow(
        self, generation_id: str, after: int, handover_wait_s: float, *, progress: bool = True
    ) -> AsyncIterator[Event]:
        """Events after `after` up to the closing one, as they come.

        A stopping replica follows another one for `handover_wait_s`. Raises as `GenerationService.watch`.
        """
        ended = (await self._get(generation_id)).status.is_final
        idle, unavailable_since = False, None
        while True:
            changed = self._notifier.subscribe(generation_id)
            claimed_here = self._recordings.recorder_for(generation_id) is not None
            try:
                events = await self._read(generation_id, after, changed, ended=ended)
                unavailable_since = None
            except StoreUnavailable:
                unavailable_since = unavailable_since or time.monotonic()
                if time.monotonic() - unavailable_since > STORE_RETRY_S:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            for event in events:
                yield event
                after = event.seq
                if event.kind.is_final:
                    return
            if events:
                idle = False
                continue
            if ended:
                return
            self._recordings.check_stored(generation_id)
            if not claimed_here and self._stopping(handover_wait_s):
                raise Draining("this replica is stopping and another one continues the generation: retry")
            ended = idle and await self._is_final(generation_id)
            idle = True
            if not ended:
                await self._wait(generation_id, changed, here=claimed_here, progress=progress)

    async def _wait(self, generation_id: str, changed: asyncio.Event, *, here: bool, progress: bool) -> None:
        """Wait for news of this process, or until other processes may have stored some."""
        if progress and not here:
            await self.requests.ask(generation_id)
        notified_s = NOTIFIED_POLL_S if here or not progress else PROGRESS_POLL_S
        await wait_until_set(changed, notified_s if here or self._records.notifies else POLL_S)

    async def _read(self, generation_id: str, after: int, changed: asyncio.Event, *, ended: bool) -> list[Event]:
        """New events; of one that `ended`, maybe elsewhere, those in the store."""
        recorder = self._recordings.recorder_for(generation_id)
        if not ended and recorder is not None and recorder.log.covers(after):
            return recorder.log.after(after)
        return await self._reader.read(generation_id, after, changed)

    async def _is_final(self, generation_id: str) -> bool:
        """Whether it is final; False in a store outage. Raises NotFound."""
        try:
            return (await self._get(generation_id)).status.is_final
        except StoreUnavailable:
            return False
