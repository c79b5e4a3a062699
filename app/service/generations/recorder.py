"""From the engine's updates to the stores: the life of one generation after it was admitted.

Owns the event log's wording, the files of a generation, and the claim that says this process works on it: prolonged
with every write and at least every third of its lease, and whoever lost it writes nothing more. One task a
generation, on the event loop; image files are encoded in worker threads.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from app import imaging
from app.domain import EventKind, Failure, Generation, Score, Status
from app.engine.notices import shortfall_notices
from app.engine.protocols import (
    Cancelled,
    Failed,
    Finished,
    Outcome,
    Previewed,
    Pruned,
    Started,
    Stepped,
    Succeeded,
    Update,
)
from app.errors import EngineDead, FrontrunnerError, StoreUnavailable
from app.service.candidates.keys import arrays_key, blob_prefix, image_key, image_metadata
from app.service.generations.event_log import wait_until_set
from app.stores.protocols import BlobStore, Claim, GenerationStore, NewEvent

log = logging.getLogger(__name__)

MIN_WRITE_INTERVAL_S = 0.1
"""Least seconds between two writes of one log, so that progress never costs more than the work it tells of."""

STARTED_WRITE_DELAY_S = 0.05
"""How soon the log says that a generation was started: whoever finds its claim lapsed counts that.

What ends sooner is written down once, and no write takes a core from its device calls."""

MAX_PREVIEW_SIDE = 256
"""Longest side of the preview pictures in the log, pixels."""

STORE_RETRY_DELAYS_S = (0.2, 0.5, 1, 2, *[5] * 48)
"""Waits between attempts to store a result while the store is out of reach."""

STUCK_S = 8.0
"""Seconds after the first failure until requests that wait for the result get an error."""


class GenerationRecorder:
    """Writes down what the engine says of one generation until it is final, or until another process has it.

    `on_write` is called after each write, `stuck` is set when the result cannot be stored for a while. A `durable`
    generation is left to other processes when the engine dies; any other one fails, for nobody but the caller who waits
    here knows of it. Previews are told with pictures where `preview_images`: they cost what a returned image costs to
    encode, and are wasted where nobody watches.
    """

    def __init__(
        self,
        generation: Generation,
        claim: Claim,
        records: GenerationStore,
        blobs: BlobStore,
        *,
        clock: Callable[[], float],
        cancel: Callable[[str], None],
        on_write: Callable[[str], None],
        durable: bool,
        preview_images: bool,
    ) -> None:
        self.generation = generation
        self.regret: float | None = None
        self.claim_lost = False
        self.stuck = asyncio.Event()
        self._claim = claim
        self._records = records
        self._blobs = blobs
        self._clock = clock
        self._cancel = cancel
        self._on_write = on_write
        self._durable = durable
        self._preview_images = preview_images
        self._finishing = False
        self._last_write = 0.0
        self._updates: asyncio.Queue[Sequence[Update]] = asyncio.Queue()

    def put_updates(self, updates: Sequence[Update]) -> None:
        """Where the engine puts its updates."""
        self._updates.put_nowait(updates)

    def replace_claim(self, claim: Claim) -> bool:
        """Go on under a new claim, this process having taken over from itself; False when it has given up already."""
        if not self.claim_lost:
            self._claim = claim
        return not self.claim_lost

    async def run(self) -> None:
        """Follow to the end. The generation is then final in the store, was forgotten, or is another process's."""
        self._last_write = asyncio.get_running_loop().time()  # the claim was made a moment ago
        final = False
        while not final:
            updates = await self._next_updates()
            final = bool(updates) and isinstance(updates[-1], Succeeded | Failed | Cancelled)
            if self.claim_lost:
                continue
            claimed = await (self._finish(updates) if final else self._append_progress(updates))
            if not claimed:
                self.claim_lost = True
                self._cancel(self.generation.id)
            self._on_write(self.generation.id)

    async def release_claim(self) -> None:
        """Let any process take it from now on, and make the same candidates again; not if it is about to end here."""
        if self._finishing or self.claim_lost:
            return
        self.claim_lost = True
        self._cancel(self.generation.id)
        started = self.generation.status is Status.RUNNING
        await self._release(self.generation.attempts - started)

    async def fail(self, error: FrontrunnerError) -> bool:
        """End it without having run; False when the claim is gone."""
        failure = Failure(error.code, error.detail)
        self.generation = replace(self.generation, status=Status.FAILED, finished=self._clock(), failure=failure)
        claimed = await self._records.save(self.generation, [closing_line(self.generation)], self._claim)
        self._on_write(self.generation.id)
        return claimed

    async def _release(self, attempts: int) -> None:
        queued = replace(self.generation, status=Status.QUEUED, started=None, attempts=attempts)
        try:
            await self._records.release(queued, self._claim)
        except StoreUnavailable:
            log.warning("not handed back, so its claim must lapse first", extra={"generation": self.generation.id})

    async def _next_updates(self) -> list[Update]:
        """The next updates: all that come within QUIET_S, or none when the claim wants prolonging."""
        clock = asyncio.get_running_loop().time
        updates: list[Update] = []
        until = clock() + self._claim.lease_s / 3
        while not (updates and isinstance(updates[-1], Succeeded | Failed | Cancelled)):
            try:
                batch = await asyncio.wait_for(self._updates.get(), max(0.0, until - clock()))
            except TimeoutError:
                break
            delay = STARTED_WRITE_DELAY_S if any(isinstance(u, Started) for u in batch) else MIN_WRITE_INTERVAL_S
            until = until if updates else clock() + delay
            updates += batch
        return updates

    async def _append_progress(self, updates: Sequence[Update]) -> bool:
        """Append progress to the log; False when the claim is gone. A lost line is no lost result."""
        started = any(isinstance(u, Started) for u in updates)
        if started:
            self._start()
        lines = await asyncio.to_thread(_lines, updates, self.generation.attempts, self._preview_images)
        try:
            if started:
                claimed = await self._records.save(self.generation, lines, self._claim)
            else:
                claimed = await self._records.append(self.generation.id, lines, self._claim)
        except StoreUnavailable:
            log.warning("progress was not written: the store is out of reach", extra={"generation": self.generation.id})
            return True
        self._last_write = asyncio.get_running_loop().time()
        return claimed

    def _start(self) -> None:
        attempts = self.generation.attempts + 1
        self.generation = replace(self.generation, status=Status.RUNNING, started=self._clock(), attempts=attempts)

    async def _finish(self, updates: Sequence[Update]) -> bool:
        """Store the result, trying again while the store is out of reach. Raises StoreUnavailable when it is lost."""
        last = updates[-1]
        if isinstance(last, Failed) and isinstance(last.error, EngineDead) and self._durable:
            await self._release(self.generation.attempts)
            return False
        self._finishing = True
        if any(isinstance(u, Started) for u in updates):
            self._start()
        self.regret = last.outcome.regret if isinstance(last, Succeeded) else None
        build = partial(_build_final, self.generation, updates, self._clock(), self._preview_images)
        self.generation, files, lines = await asyncio.to_thread(build)
        stored = asyncio.Event()
        keep_alive = asyncio.create_task(self._keep_claim_alive(stored))
        try:
            return await self._store_with_retries(files, lines)
        finally:
            stored.set()
            await keep_alive

    async def _keep_claim_alive(self, stored: asyncio.Event) -> None:
        """Prolong the claim for as long as storing takes."""
        while not stored.is_set():
            await wait_until_set(stored, self._claim.lease_s / 3)
            with suppress(StoreUnavailable):
                if not stored.is_set() and await self._records.append(self.generation.id, (), self._claim):
                    self._last_write = asyncio.get_running_loop().time()

    async def _store_with_retries(self, files: Mapping[str, bytes], lines: Sequence[NewEvent]) -> bool:
        stuck = None
        try:
            for wait in STORE_RETRY_DELAYS_S:
                with suppress(StoreUnavailable):
                    return await self._store(files, lines)
                if stuck is None:
                    stuck = asyncio.get_running_loop().call_later(STUCK_S, self.stuck.set)
                    log.warning("a result cannot be stored yet", extra={"generation": self.generation.id})
                await asyncio.sleep(wait)
            return await self._store(files, lines)
        finally:
            if stuck is not None:
                stuck.cancel()

    async def _store(self, files: Mapping[str, bytes], lines: Sequence[NewEvent]) -> bool:
        """Write files and record; False when the claim is gone. What was forgotten meanwhile leaves no file."""
        claimed = await self._write(files, lines)
        if not claimed and not await self._records.existing_ids([self.generation.id]):
            await self._blobs.delete_prefix(blob_prefix(self.generation.id))
        return claimed

    async def _write(self, files: Mapping[str, bytes], lines: Sequence[NewEvent]) -> bool:
        """Files first, then the record that makes them known."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._last_write > self._claim.lease_s / 2:
            if not await self._records.append(self.generation.id, (), self._claim):
                return False
            self._last_write = loop.time()
        await asyncio.gather(*(self._blobs.put(key, data) for key, data in files.items()))
        if self.generation.attempts > 1:
            await self._blobs.delete_unfinished(blob_prefix(self.generation.id))
        return await self._records.save(self.generation, lines, self._claim)


def _build_final(
    generation: Generation, updates: Sequence[Update], now: float, preview_images: bool
) -> tuple[Generation, dict[str, bytes], list[NewEvent]]:
    """The final record, its files, and the log's last lines."""
    generation, files = replace(generation, finished=now, started=generation.started or now), dict[str, bytes]()
    last = updates[-1]
    if isinstance(last, Succeeded):
        generation, files = _succeeded(generation, last.outcome)
    elif isinstance(last, Failed):
        failure = Failure(last.error.code, last.error.detail)
        generation = replace(generation, status=Status.FAILED, failure=failure)
    else:
        generation = replace(generation, status=Status.CANCELLED)
    return generation, files, [*_lines(updates[:-1], generation.attempts, preview_images), closing_line(generation)]


def _succeeded(generation: Generation, outcome: Outcome) -> tuple[Generation, dict[str, bytes]]:
    generation = replace(
        generation,
        status=Status.SUCCEEDED,
        candidates=outcome.candidates,
        margin=outcome.margin,
        low_confidence=outcome.low_confidence,
        stopped=outcome.stopped,
        warnings=(*generation.warnings, *outcome.notices, *shortfall_notices(generation.spec, outcome.candidates)),
        timings=outcome.timings,
        work=outcome.work,
    )
    output_format = generation.output_format
    files = {
        image_key(generation.id, c.index, output_format): imaging.encode(
            outcome.images[c.index], output_format, image_metadata(generation, c)
        )
        for c in generation.best
    }
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=outcome.embeddings, latents=outcome.latents)
    return generation, {**files, arrays_key(generation.id): buffer.getvalue()}


def closing_line(generation: Generation) -> NewEvent:
    """The line that closes the log; the result itself is in the record."""
    data: dict[str, Any] = {"status": str(generation.status)}
    if generation.failure is not None:
        data["failure"] = {"code": generation.failure.code, "detail": generation.failure.detail}
    return NewEvent(EventKind(str(generation.status)), data)


def _lines(updates: Sequence[Update], attempt: int, preview_images: bool) -> list[NewEvent]:
    """Log lines of updates; of several steps only the newest is told. Encodes previews: not for the event loop."""
    newest = next((u for u in reversed(updates) if isinstance(u, Stepped)), None)
    return [_line(u, attempt, preview_images) for u in updates if not isinstance(u, Stepped) or u is newest]


def _line(update: Update, attempt: int, preview_images: bool) -> NewEvent:
    if isinstance(update, Started):
        return NewEvent(EventKind.STARTED, {"queue_ms": round(update.queue_ms, 3), "attempt": attempt})
    if isinstance(update, Stepped):
        return NewEvent(EventKind.STEP, {"step": update.step, "steps": update.steps, "live": update.live})
    if isinstance(update, Previewed):
        preview = imaging.thumbnail(update.image, MAX_PREVIEW_SIDE) if preview_images else None
        data = {"index": update.index, "step": update.step, "score": _score(update.score), "image": preview}
        return NewEvent(EventKind.PREVIEW, data)
    if isinstance(update, Pruned):
        return NewEvent(EventKind.PRUNED, {"indices": list(update.indices), "step": update.step})
    assert isinstance(update, Finished)
    return NewEvent(EventKind.CANDIDATE, {"index": update.index, "score": _score(update.score)})


def _score(score: Score) -> float | None:
    """A score for JSON, which has no NaN."""
    return score.score if np.isfinite(score.score) else None
