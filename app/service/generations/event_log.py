"""In-process notifications: wake log watchers and workers; share log queries.

Use in one event loop.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakValueDictionary

from app.domain import Event
from app.stores.protocols import GenerationStore

QUEUE_TOPIC = ""
"""Topic: a generation is claimable, or the engine has room."""


class Notifier:
    """Subscribe before reading, then wait: no notification is missed."""

    def __init__(self) -> None:
        self._events: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def subscribe(self, name: str) -> asyncio.Event:
        """The event that the topic's next notification sets."""
        return self._events.setdefault(name, asyncio.Event())

    def has_subscribers(self, name: str) -> bool:
        """Whether somebody waits for the topic's next notification."""
        return name in self._events

    def notify(self, name: str) -> None:
        """Wake the subscribers of `name`."""
        changed = self._events.pop(name, None)
        if changed is not None:
            changed.set()

    def notify_all(self) -> None:
        """Wake all subscribers."""
        for name in list(self._events):
            self.notify(name)


class EventLogReader:
    """Reads logs. Concurrent readers woken by one notification share one query."""

    def __init__(self, records: GenerationStore) -> None:
        self._records = records
        self._readings: dict[tuple[asyncio.Event, int], asyncio.Task[list[Event]]] = {}

    async def read(self, generation_id: str, after: int, changed: asyncio.Event) -> list[Event]:
        """Events after `after`, at most one store page. Raises StoreUnavailable.

        The query starts after `changed` was subscribed, so readers that share it miss nothing.
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
            done.exception()  # the awaiting readers receive it


async def wait_until_set(changed: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or after `timeout_s`."""
    with suppress(TimeoutError):  # wait_for may swallow cancellation on Python 3.11
        async with asyncio.timeout(timeout_s):
            await changed.wait()
