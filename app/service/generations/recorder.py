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
from app.engine.notices import shortfall
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
from app.service.candidates.keys import field_key, folder, image_key, parameters
from app.service.generations.event_log import heard
from app.stores.protocols import Blobs, Claim, Line, Records

log = logging.getLogger(__name__)

QUIET_S = 0.1
"""Least seconds between two writes of one log, so that progress never costs more than the work it tells of."""

STARTED_S = 0.05
"""How soon the log says that a generation was started: whoever finds its claim lapsed counts that.

What ends sooner is written down once, and no write takes a core from its device calls."""

PREVIEW_SIDE = 256
"""Longest side of the preview pictures in the log, pixels."""

RETRIES_S = (0.2, 0.5, 1, 2, *[5] * 48)
"""Waits between attempts to store a result while the store is out of reach."""

STUCK_S = 8.0
"""Seconds after the first failure until requests that wait for the result get an error."""


class Follower:
    """Writes down what the engine says of one generation until it is final, or until another process has it.

    `told` is called after each write, `stuck` is set when the result cannot be stored for a while. A `durable`
    generation is left to other processes when the engine dies; any other one fails, for nobody but the caller who waits
    here knows of it. Previews are told with pictures where `pictured`: they cost what a returned image costs to encode,
    and are wasted where nobody watches.
    """

    def __init__(
        self,
        generation: Generation,
        claim: Claim,
        records: Records,
        blobs: Blobs,
        *,
        clock: Callable[[], float],
        give_up: Callable[[str], None],
        told: Callable[[str], None],
        durable: bool,
        pictured: bool,
    ) -> None:
        self.generation = generation
        self.regret: float | None = None
        self.lost = False
        self.stuck = asyncio.Event()
        self._claim = claim
        self._records = records
        self._blobs = blobs
        self._clock = clock
        self._give_up = give_up
        self._told = told
        self._durable = durable
        self._pictured = pictured
        self._ending = False
        self._written = 0.0
        self._updates: asyncio.Queue[Sequence[Update]] = asyncio.Queue()

    def sink(self, updates: Sequence[Update]) -> None:
        """Where the engine puts its updates."""
        self._updates.put_nowait(updates)

    def adopt(self, claim: Claim) -> bool:
        """Go on under a new claim, this process having taken over from itself; False when it has given up already."""
        if not self.lost:
            self._claim = claim
        return not self.lost

    async def run(self) -> None:
        """Follow to the end. The generation is then final in the store, was forgotten, or is another process's."""
        self._written = asyncio.get_running_loop().time()  # the claim was made a moment ago
        final = False
        while not final:
            updates = await self._next()
            final = bool(updates) and isinstance(updates[-1], Succeeded | Failed | Cancelled)
            if self.lost:
                continue
            kept = await (self._finish(updates) if final else self._note(updates))
            if not kept:
                self.lost = True
                self._give_up(self.generation.id)
            self._told(self.generation.id)

    async def hand_back(self) -> None:
        """Let any process take it from now on, and make the same candidates again; not if it is about to end here."""
        if self._ending or self.lost:
            return
        self.lost = True
        self._give_up(self.generation.id)
        begun = self.generation.status is Status.RUNNING
        await self._release(self.generation.attempts - begun)

    async def fail(self, error: FrontrunnerError) -> bool:
        """End it without having run; False when the claim is gone."""
        failure = Failure(error.code, error.detail)
        self.generation = replace(self.generation, status=Status.FAILED, finished=self._clock(), failure=failure)
        kept = await self._records.save(self.generation, [closing(self.generation)], self._claim)
        self._told(self.generation.id)
        return kept

    async def _release(self, attempts: int) -> None:
        queued = replace(self.generation, status=Status.QUEUED, started=None, attempts=attempts)
        try:
            await self._records.release(queued, self._claim)
        except StoreUnavailable:
            log.warning("not handed back, so its claim must lapse first", extra={"generation": self.generation.id})

    async def _next(self) -> list[Update]:
        """The next updates: all that come within QUIET_S, or none when the claim wants prolonging."""
        clock = asyncio.get_running_loop().time
        updates: list[Update] = []
        until = clock() + self._claim.lease_s / 3
        while not (updates and isinstance(updates[-1], Succeeded | Failed | Cancelled)):
            try:
                batch = await asyncio.wait_for(self._updates.get(), max(0.0, until - clock()))
            except TimeoutError:
                break
            quiet = STARTED_S if any(isinstance(u, Started) for u in batch) else QUIET_S
            until = until if updates else clock() + quiet
            updates += batch
        return updates

    async def _note(self, updates: Sequence[Update]) -> bool:
        """Append progress to the log; False when the claim is gone. A lost line is no lost result."""
        started = any(isinstance(u, Started) for u in updates)
        if started:
            self._start()
        lines = await asyncio.to_thread(_lines, updates, self.generation.attempts, self._pictured)
        try:
            if started:
                kept = await self._records.save(self.generation, lines, self._claim)
            else:
                kept = await self._records.append(self.generation.id, lines, self._claim)
        except StoreUnavailable:
            log.warning("progress was not written: the store is out of reach", extra={"generation": self.generation.id})
            return True
        self._written = asyncio.get_running_loop().time()
        return kept

    def _start(self) -> None:
        attempts = self.generation.attempts + 1
        self.generation = replace(self.generation, status=Status.RUNNING, started=self._clock(), attempts=attempts)

    async def _finish(self, updates: Sequence[Update]) -> bool:
        """Store the result, trying again while the store is out of reach. Raises StoreUnavailable when it is lost."""
        last = updates[-1]
        if isinstance(last, Failed) and isinstance(last.error, EngineDead) and self._durable:
            await self._release(self.generation.attempts)
            return False
        self._ending = True
        if any(isinstance(u, Started) for u in updates):
            self._start()
        self.regret = last.outcome.regret if isinstance(last, Succeeded) else None
        ended = partial(_ended, self.generation, updates, self._clock(), self._pictured)
        self.generation, files, lines = await asyncio.to_thread(ended)
        stored = asyncio.Event()
        keeping = asyncio.create_task(self._keep(stored))
        try:
            return await self._stored(files, lines)
        finally:
            stored.set()
            await keeping

    async def _keep(self, stored: asyncio.Event) -> None:
        """Prolong the claim for as long as storing takes."""
        while not stored.is_set():
            await heard(stored, self._claim.lease_s / 3)
            with suppress(StoreUnavailable):
                if not stored.is_set() and await self._records.append(self.generation.id, (), self._claim):
                    self._written = asyncio.get_running_loop().time()

    async def _stored(self, files: Mapping[str, bytes], lines: Sequence[Line]) -> bool:
        stuck = None
        try:
            for wait in RETRIES_S:
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

    async def _store(self, files: Mapping[str, bytes], lines: Sequence[Line]) -> bool:
        """Write files and record; False when the claim is gone. What was forgotten meanwhile leaves no file."""
        kept = await self._write(files, lines)
        if not kept and not await self._records.known([self.generation.id]):
            await self._blobs.delete_prefix(folder(self.generation.id))
        return kept

    async def _write(self, files: Mapping[str, bytes], lines: Sequence[Line]) -> bool:
        """Files first, then the record that makes them known."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._written > self._claim.lease_s / 2:
            if not await self._records.append(self.generation.id, (), self._claim):
                return False
            self._written = loop.time()
        await asyncio.gather(*(self._blobs.put(key, data) for key, data in files.items()))
        if self.generation.attempts > 1:
            await self._blobs.tidy(folder(self.generation.id))
        return await self._records.save(self.generation, lines, self._claim)


def _ended(
    generation: Generation, updates: Sequence[Update], now: float, pictured: bool
) -> tuple[Generation, dict[str, bytes], list[Line]]:
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
    return generation, files, [*_lines(updates[:-1], generation.attempts, pictured), closing(generation)]


def _succeeded(generation: Generation, outcome: Outcome) -> tuple[Generation, dict[str, bytes]]:
    generation = replace(
        generation,
        status=Status.SUCCEEDED,
        candidates=outcome.candidates,
        margin=outcome.margin,
        low_confidence=outcome.low_confidence,
        stopped=outcome.stopped,
        warnings=(*generation.warnings, *outcome.notices, *shortfall(generation.spec, outcome.candidates)),
        timings=outcome.timings,
        work=outcome.work,
    )
    form = generation.output_format
    files = {
        image_key(generation.id, c.index, form): imaging.encode(
            outcome.images[c.index], form, parameters(generation, c)
        )
        for c in generation.best
    }
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=outcome.embeddings, latents=outcome.latents)
    return generation, {**files, field_key(generation.id): buffer.getvalue()}


def closing(generation: Generation) -> Line:
    """The line that closes the log; the result itself is in the record."""
    data: dict[str, Any] = {"status": str(generation.status)}
    if generation.failure is not None:
        data["failure"] = {"code": generation.failure.code, "detail": generation.failure.detail}
    return Line(EventKind(str(generation.status)), data)


def _lines(updates: Sequence[Update], attempt: int, pictured: bool) -> list[Line]:
    """Log lines of updates; of several steps only the newest is told. Encodes previews: not for the event loop."""
    newest = next((u for u in reversed(updates) if isinstance(u, Stepped)), None)
    return [_line(u, attempt, pictured) for u in updates if not isinstance(u, Stepped) or u is newest]


def _line(update: Update, attempt: int, pictured: bool) -> Line:
    if isinstance(update, Started):
        return Line(EventKind.STARTED, {"queue_ms": round(update.queue_ms, 3), "attempt": attempt})
    if isinstance(update, Stepped):
        return Line(EventKind.STEP, {"step": update.step, "steps": update.steps, "live": update.live})
    if isinstance(update, Previewed):
        picture = imaging.thumbnail(update.image, PREVIEW_SIDE) if pictured else None
        data = {"index": update.index, "step": update.step, "score": _score(update.score), "image": picture}
        return Line(EventKind.PREVIEW, data)
    if isinstance(update, Pruned):
        return Line(EventKind.PRUNED, {"indices": list(update.indices), "step": update.step})
    assert isinstance(update, Finished)
    return Line(EventKind.CANDIDATE, {"index": update.index, "score": _score(update.score)})


def _score(score: Score) -> float | None:
    """A score for JSON, which has no NaN."""
    return score.score if np.isfinite(score.score) else None
