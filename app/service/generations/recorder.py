"""Record one generation from the engine's updates to the stores.

It owns the event log's format, the files and the claim. Each write extends the claim, at least every third of its
lease; without the claim, nothing is written. One task per generation runs on the event loop; worker threads encode
images.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from app import imaging
from app.domain import EventKind, Failure, Generation, Progress, Status
from app.engine.notices import shortfall_notices
from app.engine.protocols import (
    Cancelled,
    Failed,
    Outcome,
    Started,
    Stepped,
    Succeeded,
    Update,
)
from app.errors import AllFlagged, EngineDead, FrontrunnerError, SafetyUnavailable, SigningFailed, StoreUnavailable
from app.service.candidates.generation_guards import GenerationGuards
from app.service.candidates.guards import ImageGuards
from app.service.candidates.images import resized
from app.service.candidates.keys import arrays_key, blob_prefix, file_metadata, image_key, truncation_notices
from app.service.candidates.safety import GenerationSafety
from app.service.candidates.sealing import FileSealer
from app.service.candidates.upscaling import UPSCALED
from app.service.generations.event_log import PreviewSafety, event_lines, progress_after, wait_until_set
from app.service.ranking.finishing import Finisher
from app.stores.protocols import BlobStore, Claim, GenerationStore, NewEvent

log = logging.getLogger(__name__)

T = TypeVar("T")

MIN_WRITE_INTERVAL_S = 0.1
"""Minimum seconds between log writes, so that progress stays cheap."""

STEP_WRITE_INTERVAL_S = 1.0
"""The same for steps alone, while no client of this process follows the log."""

STARTED_WRITE_DELAY_S = 0.05
"""Maximum seconds until the start is logged; takeovers count started attempts.

Shorter generations are written once, without taking CPU time from device calls.
"""

STORE_RETRY_DELAYS_S = (0.2, 0.5, 1, 2, *[5] * 48)
"""Delays between attempts to store a result during an outage."""

STUCK_S = 8.0
"""Seconds after the first failure until waiting requests get an error."""


class GenerationRecorder:
    """Records the engine's updates until the generation is final or taken over.

    `on_write` is called after each write. `is_followed` says whether a client follows the log here. `stuck` is set
    while the result cannot be stored. If the engine dies, a `durable` generation is left to other processes; any
    other one fails, since only its waiting caller knows it. Previews include images only with `preview_images`:
    encoding costs as much as a returned image.
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
        finisher: Finisher,
        sealer: FileSealer,
        guards: ImageGuards,
        safety: GenerationSafety,
        on_write: Callable[[str], None],
        is_followed: Callable[[str], bool],
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
        self._finisher = finisher
        self._sealer = sealer
        self._guards = GenerationGuards(guards, generation.spec)
        self._safety = safety
        self._on_write = on_write
        self._is_followed = is_followed
        self._durable = durable
        self._preview_images = preview_images
        self._finishing = False
        self._last_write = 0.0
        self._updates: asyncio.Queue[Sequence[Update]] = asyncio.Queue()

    def put_updates(self, updates: Sequence[Update]) -> None:
        """The engine's sink of updates."""
        self._updates.put_nowait(updates)

    def replace_claim(self, claim: Claim) -> bool:
        """Continue under a new claim; False if this recorder gave up."""
        if not self.claim_lost:
            self._claim = claim
        return not self.claim_lost

    async def run(self) -> None:
        """Record until the generation is final, deleted or taken over."""
        self._last_write = asyncio.get_running_loop().time()  # the claim is new
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
        """Release the claim so that any process can repeat it.

        Does nothing while the result is being stored.
        """
        if self._finishing or self.claim_lost:
            return
        self.claim_lost = True
        self._cancel(self.generation.id)
        started = self.generation.status is Status.RUNNING
        await self._release(self.generation.attempts - started)

    async def fail(self, error: FrontrunnerError) -> bool:
        """End it without running; False if the claim was lost."""
        failure = Failure(error.code, error.detail)
        self.generation = replace(self.generation, status=Status.FAILED, finished=self._clock(), failure=failure)
        claimed = await self._records.save(self.generation, [closing_line(self.generation)], self._claim)
        self._on_write(self.generation.id)
        return claimed

    async def _release(self, attempts: int) -> None:
        queued = replace(self.generation, status=Status.QUEUED, started=None, attempts=attempts, progress=Progress())
        try:
            await self._records.release(queued, self._claim)
        except StoreUnavailable:
            log.warning("claim not released: it must expire first", extra={"generation": self.generation.id})

    async def _next_updates(self) -> list[Update]:
        """A batch of updates; empty when the claim is due for extension."""
        clock = asyncio.get_running_loop().time
        updates: list[Update] = []
        until = clock() + self._claim.lease_s / 3
        while not (updates and isinstance(updates[-1], Succeeded | Failed | Cancelled)):
            try:
                batch = await asyncio.wait_for(self._updates.get(), max(0.0, until - clock()))
            except TimeoutError:
                break
            until = min(until, clock() + self._write_delay_s(batch))
            updates += batch
        return updates

    def _write_delay_s(self, updates: Sequence[Update]) -> float:
        """Seconds that the updates may wait for others."""
        if any(isinstance(u, Started) for u in updates):
            return STARTED_WRITE_DELAY_S
        if all(isinstance(u, Stepped) for u in updates) and not self._is_followed(self.generation.id):
            return STEP_WRITE_INTERVAL_S
        return MIN_WRITE_INTERVAL_S

    async def _append_progress(self, updates: Sequence[Update]) -> bool:
        """Append progress; False if the claim was lost. Outages only lose events."""
        started = any(isinstance(u, Started) for u in updates)
        if started:
            self._start()
        self.generation = replace(self.generation, progress=progress_after(updates, self.generation.progress))
        async with self._claim_kept():
            await self._inspect(updates)
        lines = await asyncio.to_thread(self._lines, updates)
        try:
            if started:
                claimed = await self._records.save(self.generation, lines, self._claim)
            else:
                claimed = await self._records.append(self.generation.id, lines, self._claim, self.generation.progress)
        except StoreUnavailable:
            log.warning("progress not stored: the store is unavailable", extra={"generation": self.generation.id})
            return True
        self._last_write = asyncio.get_running_loop().time()
        return claimed

    def _start(self) -> None:
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
        self.regret = last.outcome.regret if isinstance(last, Succeeded) else None
        async with self._claim_kept():
            await self._inspect(updates)
            if isinstance(last, Succeeded):
                updates = [*updates[:-1], await self._judged(last.outcome)]
            try:
                self.generation, files, lines = await self._build(updates)
            except SigningFailed as error:
                self.generation, files, lines = await self._build([*updates[:-1], Failed(error)])
            return await self._retried(lambda: self._store(files, lines))

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

    def _lines(self, updates: Sequence[Update]) -> list[NewEvent]:
        attempts, mode = self.generation.attempts, self.generation.spec.safety
        return event_lines(updates, attempts, self._preview_images, PreviewSafety(mode, self._safety.previewed))

    async def _build(self, updates: Sequence[Update]) -> tuple[Generation, dict[str, bytes], list[NewEvent]]:
        """The final record, its files and events.

        Raises SigningFailed, and StoreUnavailable after retries.
        """
        build = partial(_build_final, self.generation, updates, self._clock(), self._lines)
        generation, files, lines = await asyncio.to_thread(build)
        sealed = await self._retried(lambda: self._sealer.seal_all(generation, files, self._blobs))
        return generation, sealed, lines

    @asynccontextmanager
    async def _claim_kept(self) -> AsyncIterator[None]:
        """Extend the claim during this block, which may take longer than the lease."""
        done = asyncio.Event()
        keep_alive = asyncio.create_task(self._keep_claim_alive(done))
        try:
            yield
        finally:
            done.set()
            await keep_alive

    async def _keep_claim_alive(self, stored: asyncio.Event) -> None:
        """Extend the claim until `stored` is set."""
        while not stored.is_set():
            await wait_until_set(stored, self._claim.lease_s / 3)
            with suppress(StoreUnavailable):
                if not stored.is_set() and await self._records.append(self.generation.id, (), self._claim):
                    self._last_write = asyncio.get_running_loop().time()

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
                await asyncio.sleep(wait)
            return await action()
        finally:
            if stuck is not None:
                stuck.cancel()

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
    generation: Generation,
    updates: Sequence[Update],
    now: float,
    lines: Callable[[Sequence[Update]], list[NewEvent]],
) -> tuple[Generation, dict[str, bytes], list[NewEvent]]:
    """The final record, its files, and the last events."""
    progress = progress_after(updates, generation.progress)
    generation = replace(generation, finished=now, started=generation.started or now, progress=progress)
    files = dict[str, bytes]()
    last = updates[-1]
    if isinstance(last, Succeeded):
        generation, files = _succeeded(generation, last.outcome)
    elif isinstance(last, Failed):
        failure = Failure(last.error.code, last.error.detail)
        generation = replace(generation, status=Status.FAILED, failure=failure)
    else:
        generation = replace(generation, status=Status.CANCELLED)
    return generation, files, [*lines(updates[:-1]), closing_line(generation)]


def _succeeded(generation: Generation, outcome: Outcome) -> tuple[Generation, dict[str, bytes]]:
    generation = replace(
        generation,
        status=Status.SUCCEEDED,
        candidates=outcome.candidates,
        margin=outcome.margin,
        margin_error=outcome.margin_error,
        low_confidence=outcome.low_confidence,
        stopped=outcome.stopped,
        agreement=outcome.agreement,
        judged=outcome.judged,
        referee=outcome.referee,
        warnings=(*generation.warnings, *outcome.notices, *shortfall_notices(generation.spec, outcome.candidates)),
        timings=outcome.timings,
        work=outcome.work,
    )
    output_format = generation.output_format
    upscaler = next((n.data["upscaler"] for n in generation.warnings if n.code == UPSCALED), None)
    metadata = {c.index: file_metadata(generation, c, upscaler) for c in generation.best}
    generation = replace(
        generation, warnings=(*generation.warnings, *truncation_notices(output_format, metadata.values()))
    )
    files = {
        image_key(generation.id, c.index, output_format): imaging.encode(
            resized(outcome.images[c.index], generation), output_format, metadata[c.index]
        )
        for c in generation.best
    }
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"embeddings": outcome.embeddings, "latents": outcome.latents, **outcome.members}
    np.savez(buffer, **arrays)
    return generation, {**files, arrays_key(generation.id): buffer.getvalue()}


def closing_line(generation: Generation) -> NewEvent:
    """The event that closes the log; the record holds the result."""
    data: dict[str, Any] = {"status": str(generation.status)}
    if generation.failure is not None:
        data["failure"] = {"code": generation.failure.code, "detail": generation.failure.detail}
    return NewEvent(EventKind(str(generation.status)), data)
