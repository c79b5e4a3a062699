"""Record one generation from the engine's updates to the stores.

It owns the files, and when events are stored: with the start, with the end, and meanwhile only where another replica
follows. The supervisor extends the claim; without it, nothing is written. One task per generation runs on the event
loop; worker threads encode images.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from app.domain import Failure, Generation, Progress, Status
from app.engine.protocols import (
    Cancelled,
    Failed,
    Outcome,
    Previewed,
    Started,
    Stepped,
    Succeeded,
    Update,
)
from app.errors import AllFlagged, EngineDead, FrontrunnerError, SafetyUnavailable, SigningFailed, StoreUnavailable
from app.service.candidates.generation_guards import GenerationGuards
from app.service.candidates.guards import ImageGuards
from app.service.candidates.keys import blob_prefix
from app.service.candidates.safety import GenerationSafety
from app.service.candidates.sealing import FileSealer
from app.service.candidates.threads import run_in_thread
from app.service.generations.event_log import PreviewSafety, event_lines, progress_after
from app.service.generations.recording.final_record import build_final, closing_line, pixels_to_encode
from app.service.generations.recording.inbox import UpdateInbox
from app.service.generations.recording.live_log import LiveLog
from app.service.ranking.finishing import Finisher
from app.stores.protocols import BlobStore, Claim, GenerationStore, NewEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

MIN_WRITE_INTERVAL_S = 0.1
"""Minimum seconds between additions to the log, so that progress stays cheap."""

STEP_WRITE_INTERVAL_S = 1.0
"""The same for steps alone, while no client follows the log."""

STARTED_WRITE_DELAY_S = 0.05
"""Maximum seconds until the log shows the start."""

START_STORE_DELAY_S = 0.25
"""Seconds until a first start is stored: shorter generations are stored once.

Takeovers count stored starts, so those after a loss are stored at once.
"""

PROGRESS_RETRY_S = 1.0
"""Seconds until progress is stored again after an outage."""

WATCHED_STORE_INTERVAL_S = 0.5
"""Minimum seconds between writes of progress that another replica follows."""

MAX_UNSTORED_BYTES = 4 * 2**20
"""Events in memory are stored when they take more."""

STORE_RETRY_DELAYS_S = (0.2, 0.5, 1, 2, *[5] * 48)
"""Delays between attempts to store a result during an outage."""

STUCK_S = 8.0
"""Seconds after the first failure until waiting requests get an error."""


class GenerationRecorder:
    """Records the engine's updates until the generation is final or taken over.

    `log` holds events that are not stored yet, numbered after `last_seq`. `on_write` is called when it grows.
    `is_followed` says whether a client follows the log here. `stuck` is set
    while the result cannot be stored. If the engine dies, a `durable` generation is left to other processes; any
    other one fails, since only its waiting caller knows it. Previews include images only with `preview_images`:
    encoding costs as much as a returned image.
    """

    def __init__(
        self,
        generation: Generation,
        claim: Claim,
        last_seq: int,
        records: GenerationStore,
        blobs: BlobStore,
        *,
        clock: Callable[[], float],
        cancel: Callable[[str], None],
        finisher: Finisher,
        sealer: FileSealer,
        guards: ImageGuards,
        safety: GenerationSafety,
        on_write: Callable[[str], None],
        is_followed: Callable[[str], bool],
        durable: bool,
        preview_images: bool,
        start_delay_s: float = START_STORE_DELAY_S,
    ) -> None:
        self.generation = generation
        self.regret: float | None = None
        self.claim_lost = False
        self.stuck = asyncio.Event()
        self.log = LiveLog(last_seq, clock)
        self.claim = claim
        self._records = records
        self._blobs = blobs
        self._clock = clock
        self._cancel = cancel
        self._finisher = finisher
        self._sealer = sealer
        self._guards = GenerationGuards(guards, generation.spec)
        self._safety = safety
        self._on_write = on_write
        self._is_followed = is_followed
        self._durable = durable
        self._preview_images = preview_images
        self._start_delay_s = start_delay_s
        self._finishing = False
        self._watched = False
        self._made = self._stored_at = time.monotonic()
        self._start_due: float | None = None
        self._running = generation
        self._store_after = 0.0
        self._storing = asyncio.Lock()
        self._inbox = UpdateInbox()

    def put_updates(self, updates: Sequence[Update]) -> None:
        """The engine's sink of updates."""
        ended = not updates or isinstance(updates[-1], Succeeded | Failed | Cancelled)
        self._inbox.put(updates, 0.0 if ended else self._write_delay_s(updates))

    @property
    def age_s(self) -> float:
        """Seconds since this process took the generation."""
        return time.monotonic() - self._made

    @property
    def has_stored_start(self) -> bool:
        """Whether it runs, and no crash can make it look as if it had not begun."""
        return self.generation.status is Status.RUNNING and self._start_due is None

    def replace_claim(self, claim: Claim, last_seq: int) -> bool:
        """Continue under a new claim; False if this recorder gave up."""
        if not self.claim_lost:
            self.claim = claim
            self.log.continue_after(last_seq)
        return not self.claim_lost

    def lose_claim(self) -> None:
        """Give up: another process ended the generation, or took it over.

        Does nothing while the result is being stored, since that finds out itself.
        """
        if not self._finishing and not self.claim_lost:
            self._give_up()

    def set_watched(self, *, watched: bool) -> None:
        """Whether another replica follows the progress."""
        self._watched, wake = watched, watched and not self._watched
        if wake:
            self.put_updates(())

    def _give_up(self) -> None:
        self.claim_lost = True
        self._cancel(self.generation.id)
        self._on_write(self.generation.id)

    async def run(self) -> None:
        """Record until the generation is final, deleted or taken over."""
        final = False
        while not final:
            updates = await self._inbox.take(self._due_s())
            final = bool(updates) and isinstance(updates[-1], Succeeded | Failed | Cancelled)
            if self.claim_lost:
                continue
            claimed = await (self._finish(updates) if final else self._record_progress(updates))
            if not claimed:
                self._give_up()
            self._on_write(self.generation.id)

    async def release_claim(self) -> None:
        """Release the claim so that any process can repeat it.

        Does nothing while the result is being stored.
        """
        if self._finishing or self.claim_lost:
            return
        self._give_up()
        started = self.generation.status is Status.RUNNING
        await self._release(self.generation.attempts - started)

    async def fail(self, error: FrontrunnerError) -> bool:
        """End it without running; False if the claim was lost."""
        failure = Failure(error.code, error.detail)
        self.generation = replace(self.generation, status=Status.FAILED, finished=self._clock(), failure=failure)
        claimed = await self._records.save(self.generation, [closing_line(self.generation)], self.claim)
        self._on_write(self.generation.id)
        return claimed

    async def _release(self, attempts: int) -> None:
        queued = replace(self.generation, status=Status.QUEUED, started=None, attempts=attempts, progress=Progress())
        try:
            async with self._storing:
                await self._records.release(queued, self.claim, self.log.unstored())
        except StoreUnavailable:
            log.warning("claim not released: it must expire first", extra={"generation": self.generation.id})

    def _due_s(self) -> float | None:
        """Seconds until something is to be stored; None if nothing is."""
        if self._finishing or self.claim_lost:
            return None
        now, due = time.monotonic(), math.inf
        if self._start_due is not None:
            due = self._start_due - now
        if self._watched and not self.log.is_stored:
            due = min(due, self._stored_at + WATCHED_STORE_INTERVAL_S - now)
        if self.log.bytes > MAX_UNSTORED_BYTES:
            due = 0.0
        return max(0.0, due, self._store_after - now) if due < math.inf else None

    def _write_delay_s(self, updates: Sequence[Update]) -> float:
        """Seconds that the updates may wait for others."""
        if any(isinstance(u, Started) for u in updates):
            return STARTED_WRITE_DELAY_S
        followed = self._watched or self._is_followed(self.generation.id)
        if not followed and all(isinstance(u, Stepped) for u in updates):
            return STEP_WRITE_INTERVAL_S
        return MIN_WRITE_INTERVAL_S

    async def _record_progress(self, updates: Sequence[Update]) -> bool:
        """Show progress, and store what is due; False if the claim was lost."""
        if any(isinstance(u, Started) for u in updates):
            self._start()
        self.generation = replace(self.generation, progress=progress_after(updates, self.generation.progress))
        await self._inspect(updates)
        self.log.show(self.log.number(await self._lines(updates)))
        return True if self._due_s() != 0.0 else await self._store_progress()

    async def _store_progress(self) -> bool:
        """Store the log so far; False if the claim was lost. Outages only delay it."""
        async with self._storing:
            lines, self._stored_at = self.log.unstored(), time.monotonic()
            try:
                if self._start_due is not None:
                    claimed = await self._records.save(self.generation, lines, self.claim)
                else:
                    progress = self.generation.progress
                    claimed = await self._records.append(self.generation.id, lines, self.claim, progress)
            except StoreUnavailable:
                log.warning("progress not stored: the store is unavailable", extra={"generation": self.generation.id})
                self._store_after = time.monotonic() + PROGRESS_RETRY_S
                return True
            self._start_due = None
            if claimed:
                self.log.mark_stored(lines)
        return claimed

    def _start(self) -> None:
        self._start_due = time.monotonic() + self._start_delay_s
        attempts = self.generation.attempts + 1
        self.generation = replace(
            self.generation, status=Status.RUNNING, started=self._clock(), attempts=attempts, progress=Progress()
        )

    async def _finish(self, updates: Sequence[Update]) -> bool:
        """Store the result with retries. Raises StoreUnavailable when they fail."""
        last = updates[-1]
        if isinstance(last, Failed) and isinstance(last.error, EngineDead) and self._durable:
            await self._release(self.generation.attempts)
            return False
        self._finishing = True
        if any(isinstance(u, Started) for u in updates):
            self._start()
        self._running = self.generation
        self.regret = last.outcome.regret if isinstance(last, Succeeded) else None
        await self._inspect(updates)
        if isinstance(last, Succeeded):
            updates = [*updates[:-1], await self._judged(last.outcome)]
        try:
            self.generation, files, lines = await self._build(updates)
        except SigningFailed as error:
            self.generation, files, lines = await self._build([*updates[:-1], Failed(error)])
        numbered = self.log.number(lines)
        return await self._retried(lambda: self._store(files, numbered))

    async def _inspect(self, updates: Sequence[Update]) -> None:
        await self._guards.inspect(updates)
        await self._safety.inspect(updates)

    async def _judged(self, outcome: Outcome) -> Succeeded | Failed:
        """The outcome after safety, guards and all scorers."""
        try:
            safe = await self._safety.apply(outcome)
        except (AllFlagged, SafetyUnavailable) as error:
            self.generation = replace(self.generation, candidates=self._safety.judged(outcome.candidates, placed=False))
            return Failed(error)
        return Succeeded(await self._finisher(self.generation, safe, self._guards))

    async def _lines(self, updates: Sequence[Update]) -> list[NewEvent]:
        """The events of updates; a thread encodes previews."""
        if any(isinstance(u, Previewed) for u in updates):
            return await asyncio.to_thread(self._encoded_lines, updates)
        return self._encoded_lines(updates)

    def _encoded_lines(self, updates: Sequence[Update]) -> list[NewEvent]:
        attempts, mode = self.generation.attempts, self.generation.spec.safety
        return event_lines(updates, attempts, self._preview_images, PreviewSafety(mode, self._safety.previewed))

    async def _build(self, updates: Sequence[Update]) -> tuple[Generation, dict[str, bytes], list[NewEvent]]:
        """The final record, its files and events.

        Raises SigningFailed, and StoreUnavailable after retries.
        """
        build = partial(build_final, self.generation, updates, self._clock(), self._encoded_lines)
        pixels = pixels_to_encode(self.generation, updates, previews=self._preview_images)
        generation, files, lines = await run_in_thread(pixels, build)
        sealed = await self._retried(lambda: self._sealer.seal_all(generation, files, self._blobs))
        return generation, sealed, lines

    async def _retried(self, action: Callable[[], Awaitable[T]]) -> T:
        """The result of an action, which is repeated while a store is unavailable."""
        stuck = None
        try:
            for wait in STORE_RETRY_DELAYS_S:
                with suppress(StoreUnavailable):
                    return await action()
                if stuck is None:
                    stuck = asyncio.get_running_loop().call_later(STUCK_S, self.stuck.set)
                    log.warning(
                        "result not stored yet: the store is unavailable; retrying",
                        extra={"generation": self.generation.id},
                    )
                await self._store_late_start()
                await asyncio.sleep(wait)
            return await action()
        finally:
            if stuck is not None:
                stuck.cancel()

    async def _store_late_start(self) -> None:
        """Store a start that waits for the end, now that the end is delayed.

        Does nothing if that fails too.
        """
        if self._start_due is None:
            return
        with suppress(StoreUnavailable):
            lines = self.log.unstored()
            if await self._records.save(self._running, lines, self.claim):
                self._start_due = None
                self.log.mark_stored(lines)

    async def _store(self, files: Mapping[str, bytes], lines: Sequence[NewEvent]) -> bool:
        """Write files and record; False if the claim was lost.

        Files of a deleted generation are removed.
        """
        claimed = await self._write(files, lines)
        if not claimed and not await self._records.existing_ids([self.generation.id]):
            await self._blobs.delete_prefix(blob_prefix(self.generation.id))
        return claimed

    async def _write(self, files: Mapping[str, bytes], lines: Sequence[NewEvent]) -> bool:
        """Write the files before the record that refers to them."""
        await asyncio.gather(*(self._blobs.put(key, data) for key, data in files.items()))
        if self.generation.attempts > 1:
            await self._blobs.delete_unfinished(blob_prefix(self.generation.id))
        claimed = await self._records.save(self.generation, [*self.log.unstored(), *lines], self.claim)
        if claimed:
            self.log.show(lines)
        return claimed
