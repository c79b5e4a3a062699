"""The event log: its lines, and notifications in this process.

Notifications wake log watchers and workers, who share queries. Use them in one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import numpy as np

from app import imaging
from app.domain import Event, EventKind, Progress, Safety, SafetyVerdict, Score
from app.engine.protocols import Finished, Previewed, Pruned, Started, Stepped, Update
from app.stores.protocols import GenerationStore, NewEvent

QUEUE_TOPIC = ""
"""Topic: a generation is claimable, or the engine has room."""


MAX_PREVIEW_SIDE = 256
"""Longest side of logged previews, pixels."""


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


@dataclass(frozen=True, slots=True)
class PreviewSafety:
    """The mode of a generation, and verdicts of its previews by index and step."""

    mode: Safety = Safety.OFF
    verdicts: Mapping[tuple[int, int], SafetyVerdict] | None = None

    def flagged(self, preview: Previewed) -> bool | None:
        """Whether the preview is flagged; None if it was not classified."""
        verdict = (self.verdicts or {}).get((preview.index, preview.step))
        return verdict.flagged if verdict is not None else None

    def shows(self, preview: Previewed) -> bool:
        """Whether the log holds the image: under `veto`, if it is known as unflagged."""
        return self.mode is not Safety.VETO or self.flagged(preview) is False


def event_lines(
    updates: Sequence[Update], attempt: int, preview_images: bool, safety: PreviewSafety | None = None
) -> list[NewEvent]:
    """Events of updates, with the newest step only. Encodes previews: use a thread."""
    safety = safety or PreviewSafety()
    newest = next((u for u in reversed(updates) if isinstance(u, Stepped)), None)
    return [_line(u, attempt, preview_images, safety) for u in updates if not isinstance(u, Stepped) or u is newest]


def _line(update: Update, attempt: int, preview_images: bool, safety: PreviewSafety) -> NewEvent:
    if isinstance(update, Started):
        started = {"queue_ms": round(update.queue_ms, 3), "attempt": attempt, "progress": 0.0}
        return NewEvent(EventKind.STARTED, started)
    if isinstance(update, Stepped):
        step = {"step": update.step, "steps": update.steps, "live": update.live}
        return NewEvent(EventKind.STEP, {**step, "progress": round(update.progress, 4)})
    if isinstance(update, Previewed):
        shown = preview_images and safety.shows(update)
        image = imaging.thumbnail(update.image, MAX_PREVIEW_SIDE) if shown else None
        data = {"index": update.index, "step": update.step, "score": _score(update.score), "image": image}
        return NewEvent(EventKind.PREVIEW, {**data, "flagged": safety.flagged(update)})
    if isinstance(update, Pruned):
        pruned = {"indices": list(update.indices), "step": update.step, "live": update.live}
        return NewEvent(EventKind.PRUNED, {**pruned, "progress": round(update.progress, 4)})
    assert isinstance(update, Finished)
    finished = {"index": update.index, "score": _score(update.score), "progress": round(update.progress, 4)}
    return NewEvent(EventKind.CANDIDATE, finished)


def progress_after(updates: Sequence[Update], known: Progress) -> Progress:
    """The progress after these updates."""
    for update in updates:
        if isinstance(update, Stepped):
            known = Progress(update.progress, update.step, update.live)
        elif isinstance(update, Pruned):
            known = replace(known, share=update.progress, live=update.live)
        elif isinstance(update, Finished):
            known = replace(known, share=update.progress)
    return known


def _score(score: Score) -> float | None:
    """A score for JSON, which has no NaN."""
    return score.score if np.isfinite(score.score) else None
