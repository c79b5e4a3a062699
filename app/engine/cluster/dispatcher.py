"""Gives chunks to workers: fairness, routing, second attempts.

Owns the queue of chunks and all attempts. It knows rows and seconds, never an image. What is late is decided in
`hedging`. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from app.engine.cluster import hedging
from app.engine.cluster.pace import Pace
from app.engine.cluster.slots import Attempt, Chunk, Delivery, Slot
from app.engine.cluster.workers import WorkerLeft, WorkerLost
from app.engine.segments.messages import Kept, SegmentDone
from app.errors import EngineFailed, FrontrunnerError, Interrupted

log = logging.getLogger(__name__)


class Dispatcher:
    """The chunks of all generations and the workers that they run on.

    `max_attempts` limits attempts that end with their worker. The second one shares a worker with no other generation,
    later ones with nothing. `on_lost` is called with a worker that is gone.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        max_attempts: int,
        on_lost: Callable[[Slot, BaseException], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.slots = slots
        self.pace = Pace()
        self._max_attempts = max_attempts
        self._on_lost = on_lost
        self._clock = clock
        self._pending: list[Chunk] = []
        self._suspects: set[str] = set()
        self._ordered = 0
        self._watch: asyncio.Task[None] | None = None

    @property
    def idle_workers(self) -> int:
        """Workers with nothing to do."""
        return 0 if self._pending else sum(s.alive and not s.suspect and not s.attempts for s in self.slots)

    @property
    def alive(self) -> list[Slot]:
        """The workers that take chunks."""
        return [s for s in self.slots if s.alive]

    @property
    def waits(self) -> bool:
        """Whether chunks wait for a worker."""
        return bool(self._pending)

    def submit(self, chunks: Sequence[Chunk]) -> None:
        """Queue chunks, and send what has room."""
        for chunk in chunks:
            self._ordered += 1
            chunk.order = self._ordered
            self._pending.append(chunk)
        self.pump()

    def withdraw(self, generation: str) -> None:
        """Drop all chunks of a generation; frees the workers that run them."""
        self._pending = [c for c in self._pending if c.generation != generation]
        self._suspects.discard(generation)
        for attempt in self._attempts():
            if attempt.chunk.generation == generation:
                attempt.chunk.done.cancel()
                self._drop(attempt)
        self.pump()

    def pump(self) -> None:
        """Send chunks while workers have room, the owner with the fewest rows first."""
        reserved: dict[Slot, str] = {}
        while self._pending:
            for chunk in self._in_order():
                slot = self._choose(chunk, reserved)
                if slot is not None:
                    self._pending.remove(chunk)
                    self._send(chunk, slot)
                    break
            else:
                return

    def start(self) -> None:
        """Begin to look for late attempts; on a running loop."""
        self._watch = asyncio.create_task(self._hedge_repeatedly(), name="hedging")

    def close(self) -> None:
        """Stop looking for late attempts, and drop all."""
        if self._watch is not None:
            self._watch.cancel()
        for attempt in self._attempts():
            if attempt.task is not None:
                attempt.task.cancel()

    def lose(self, slot: Slot, *, blameless: bool = False) -> None:
        """Run the chunks of a worker that is gone elsewhere, whether it says so or not.

        `blameless` is whether it cannot have died of them.
        """
        slot.alive = False
        for attempt in list(slot.attempts):
            self._end(attempt)
            self._retry(attempt, blameless=blameless)
        self.pump()

    # which chunk, which worker

    def _in_order(self) -> list[Chunk]:
        """The queue: second attempts and exclusive ones, then by rows in flight."""
        owners, generations = Counter[str](), Counter[str]()
        for attempt in self._attempts():
            owners[attempt.chunk.owner] += attempt.chunk.rows
            generations[attempt.chunk.generation] += attempt.chunk.rows

        def place(c: Chunk) -> tuple[bool, int, int, int]:
            return not self._is_exclusive(c), owners[c.owner], generations[c.generation], c.order

        return sorted(self._pending, key=place)

    def _is_exclusive(self, chunk: Chunk) -> bool:
        return chunk.exclusive or chunk.generation in self._suspects

    def _choose(self, chunk: Chunk, reserved: dict[Slot, str]) -> Slot | None:
        """The worker for a chunk; None if it has to wait.

        An exclusive one that finds no worker without other generations reserves the one with the fewest rows.
        """
        possible = [s for s in self.alive if all(a.slot is not s for a in chunk.attempts)]
        possible = [s for s in possible if s not in chunk.refused_by] or possible
        possible = [s for s in possible if not s.suspect] or possible
        free = [
            s
            for s in possible
            if reserved.get(s, chunk.generation) == chunk.generation
            and not s.is_closed_to(chunk.generation)
            and s.has_room(chunk)
        ]
        if self._is_exclusive(chunk):
            free = [s for s in free if not (s.attempts if chunk.quarantined else s.serves_others(chunk.generation))]
            others = [s for s in possible if s not in reserved]
            if not free and others and chunk.generation not in reserved.values():
                reserved[min(others, key=lambda s: s.rows)] = chunk.generation
        home = next((s for s in possible if s.worker.name == chunk.home), None)
        if home is not None and not self._is_exclusive(chunk):
            return home if home in free else None
        return self._best(free, chunk.rows)

    def _best(self, slots: Sequence[Slot], rows: int) -> Slot | None:
        """The worker that is expected to be done first; of equal ones the least used."""
        now = self._clock()
        return min(
            slots, key=lambda s: (s.slowness(now) * self.pace.call_s(s.rows + rows), s.rows, s.sent), default=None
        )

    # attempts

    def _attempts(self) -> list[Attempt]:
        return [a for s in self.slots for a in s.attempts if not a.dropped]

    def _send(self, chunk: Chunk, slot: Slot) -> None:
        now = self._clock()
        attempt = Attempt(chunk, slot, chunk.make(), self._is_exclusive(chunk), chunk.quarantined, now, moved=now)
        chunk.attempts.append(attempt)
        slot.attempts.add(attempt)
        slot.sent += 1
        for each in slot.attempts:
            each.load = max(each.load, slot.rows)
        attempt.task = asyncio.create_task(self._run(attempt), name=attempt.segment.id)

    async def _run(self, attempt: Attempt) -> None:
        worker = attempt.slot.worker
        try:
            result = await worker.run(attempt.segment, partial(self._note, attempt))
        except asyncio.CancelledError:
            if not attempt.dropped:
                raise
            self._end(attempt)
        except WorkerLeft as error:
            self._end(attempt)
            self._on_lost(attempt.slot, error)
            self._retry(attempt, blameless=True)
        except WorkerLost as error:
            if attempt in attempt.slot.attempts:
                self._on_lost(attempt.slot, error)
        except FrontrunnerError as error:
            self._end(attempt)
            self._fail(attempt, error)
        except Exception as error:
            log.exception("a worker failed", extra={"worker": worker.name})
            self._end(attempt)
            self._fail(attempt, EngineFailed(f"a segment failed on its worker ({type(error).__name__})"))
        else:
            self._end(attempt)
            self._complete(attempt, result)
        self.pump()
        self._hedge()

    def _note(self, attempt: Attempt, reached: int | Kept) -> None:
        """Take in a step of an attempt, and latents from which later attempts start."""
        chunk, step = attempt.chunk, reached.step if isinstance(reached, Kept) else reached
        attempt.note_step(step, self._clock())
        if attempt.dropped or chunk.done.done():
            return
        chunk.on_step(step)
        if isinstance(reached, Kept) and step > chunk.step:
            chunk.step = step
            chunk.on_kept(attempt.segment.step, reached)

    def _end(self, attempt: Attempt) -> None:
        attempt.slot.attempts.discard(attempt)
        attempt.slot.suspect = False
        if attempt in attempt.chunk.attempts:
            attempt.chunk.attempts.remove(attempt)

    def _drop(self, attempt: Attempt) -> None:
        """Cancel an attempt; its worker is free again when it says so.

        One that leaves is not asked: its request is dropped.
        """
        attempt.dropped = True
        if attempt in attempt.chunk.attempts:
            attempt.chunk.attempts.remove(attempt)
        attempt.slot.worker.cancel(attempt.segment.id)
        if not attempt.slot.alive and attempt.task is not None:
            attempt.task.cancel()

    def _complete(self, attempt: Attempt, result: SegmentDone) -> None:
        chunk, now = attempt.chunk, self._clock()
        if attempt.dropped or chunk.done.done():
            return
        attempt.slot.starts = 0
        self.pace.learn(attempt, result, now)
        chunk.done.set_result(Delivery(result, attempt.slot.worker.name, attempt.segment.step))
        for other in list(chunk.attempts):
            other.slot.observe(self.pace.slowness_of(other, now), now)
            self._drop(other)
        if chunk.losses and not any(c.losses for c in self._chunks_of(chunk.generation)):
            self._suspects.discard(chunk.generation)

    def _chunks_of(self, generation: str) -> list[Chunk]:
        running = [a.chunk for a in self._attempts()]
        return [c for c in (*self._pending, *running) if c.generation == generation]

    def _fail(self, attempt: Attempt, error: FrontrunnerError) -> None:
        """Fail a chunk; try one that failed unexpectedly once more on another worker."""
        chunk = attempt.chunk
        if attempt.dropped or chunk.done.done():
            return
        others = [s for s in self.alive if s is not attempt.slot and s not in chunk.refused_by]
        if type(error) is not EngineFailed or chunk.refused_by or not others:
            chunk.done.set_exception(error)
        elif not chunk.attempts:
            chunk.refused_by.add(attempt.slot)
            self._pending.append(chunk)

    def _retry(self, attempt: Attempt, *, blameless: bool) -> None:
        """Try a chunk that lost its worker again, exclusively, or fail it.

        A worker that runs more than one chunk may have died of another one, or by chance together with others. So a
        chunk is at fault only if a later attempt was alone on its worker.
        """
        chunk = attempt.chunk
        if attempt.dropped or chunk.done.done():
            return
        if not blameless:
            chunk.losses += 1
            if chunk.losses >= self._max_attempts and (attempt.alone or self._max_attempts == 1):
                chunk.done.set_exception(
                    Interrupted("every worker that ran this generation crashed: change the request")
                )
                return
            self._suspects.add(chunk.generation)
        if not chunk.attempts:
            self._pending.append(chunk)

    # late attempts

    async def _hedge_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(hedging.EVERY_S)
            self._hedge()

    def _hedge(self) -> None:
        now, attempts = self._clock(), self._attempts()
        for silent in hedging.silent(attempts, now):
            silent.suspect = True
        idle = [] if self._pending else [s for s in self.alive if not s.attempts]
        for attempt in hedging.late(attempts, now):
            chunk = attempt.chunk
            open_to = self.alive if attempt.slot.suspect else idle
            slot = self._best([s for s in open_to if self._may_repeat(attempt, s)], chunk.rows)
            if slot is None:
                continue
            redo = slot.slowness(now) * self.pace.expected_again_s(chunk, slot.rows + chunk.rows)
            if attempt.slot.suspect or hedging.is_worth(attempt, redo, now):
                self._send(chunk, slot)
                idle = [s for s in idle if s is not slot]

    def _may_repeat(self, attempt: Attempt, slot: Slot) -> bool:
        """Whether a second attempt may run on a worker beside what it runs."""
        chunk = attempt.chunk
        if slot.suspect or slot is attempt.slot or slot in chunk.refused_by or slot.is_closed_to(chunk.generation):
            return False
        return not (self._is_exclusive(chunk) and slot.serves_others(chunk.generation))
