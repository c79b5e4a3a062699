"""Who waits for news of a generation, or for one to claim, is woken here, and many read a log at the price of one.

One event loop only.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakValueDictionary

from app.domain import Event
from app.stores.protocols import GenerationStore

QUEUE_TOPIC = ""
"""The name under which it is told that a generation may be claimed, or that there is room for one."""


class Notifier:
    """Take the pulse of a name before looking, then wait for it: nothing told in between is missed."""

    def __init__(self) -> None:
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def subscribe(self, name: str) -> asyncio.Event:
        """What the next news of `name` sets."""
        return self._events.setdefault(name, asyncio.Event())

    def notify(self, name: str) -> None:
        """Wake who waits for `name`."""
        changed = self._events.pop(name, None)
        if changed is not None:
            changed.set()

    def notify_all(self) -> None:
        """Wake everybody."""
        for name in list(self._events):
            self.notify(name)


class EventLogReader:
    """Reads logs. Those who were woken by the same news and want the same lines share one reading."""

    def __init__(self, records: GenerationStore) -> None:
        self._records = records
        self._readings: dict[tuple[asyncio.Event, int], asyncio.Task[list[Event]]] = {}

    async def read(self, generation_id: str, after: int, changed: asyncio.Event) -> list[Event]:
        """Lines after `after`, as many as the store gives at once. Raises StoreUnavailable.

        A reading begins after its `pulse` was taken, so that whoever shares it and then waits misses nothing.
        """
        key = changed, after
        reading = self._readings.get(key)
        if reading is None:
            reading = asyncio.create_task(self._records.events(generation_id, after))
            self._readings[key] = reading
            reading.add_done_callback(lambda done: self._reading_done(key, done))
        return await asyncio.shield(reading)

    def _reading_done(self, key: tuple[asyncio.Event, int], done: asyncio.Task[list[Event]]) -> None:
        del self._readings[key]
        if not done.cancelled():
            done.exception()  # whoever still waits has it


async def wait_until_set(changed: asyncio.Event, timeout_s: float) -> None:
    """Return when there is news, or after `timeout_s`."""
    with suppress(TimeoutError):  # not wait_for, which on Python 3.11 may swallow the cancellation of its task
        async with asyncio.timeout(timeout_s):
            await changed.wait()
