"""What this process works on: generations it has claimed, at their submit or from the queue that replicas share.

A replica takes from the queue while its device has nothing waiting, so that work goes where there is room. Where all
are busy, the first in the queue and what callers bring come in turn. What a replica cannot end is handed back; what it
dies over is claimed by another when the lease has lapsed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from app.domain import Generation, GenerationSpec, Status
from app.engine.protocols import Engine, UpdateSink
from app.errors import (
    Draining,
    EngineDead,
    FrontrunnerError,
    Interrupted,
    NotFound,
    Overloaded,
    ScorerMismatch,
    StoreUnavailable,
)
from app.service.candidates.images import made_by
from app.service.generations.event_log import QUEUE_TOPIC, Notifier, wait_until_set
from app.service.generations.recorder import GenerationRecorder
from app.stores.protocols import BlobStore, Claim, Claimable, Claimed, GenerationStore

log = logging.getLogger(__name__)

QUEUE_POLL_INTERVAL_S = 1.0
"""How often the queue is looked at when nobody tells of it."""

QUEUE_OVERDUE_S = 2.0
"""How long a busy replica leaves the first in the queue to idle ones."""

MAX_CLAIMS = 5
"""Replicas that may hold a generation and be lost before they begin with it."""

CANCEL_TIMEOUT_S = 5.0
"""How long an answer waits for the device to drop what was cancelled."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How work is shared: a claim lapses after `lease_s`; `max_attempts` times a generation may be begun.

    From the second time on it runs alone: what killed a replica in company is then told from who was beside it.
    """

    lease_s: float = 60.0
    max_attempts: int = 2


class Worker:
    """The followed generations of one process, oldest first."""

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        notifier: Notifier,
        lease_policy: LeasePolicy,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._notifier = notifier
        self._lease_policy = lease_policy
        self._clock = clock
        self._recordings: dict[str, tuple[GenerationRecorder, asyncio.Task[None]]] = {}
        self._outcomes: dict[str, int] = {}
        self._pruning_regrets = (0, 0.0)
        self._queue_head: Claimable | None = None
        self._queue_head_since = 0.0
        self._queue_head_overtaken = False
        self._queue_overdue = False

    def __iter__(self) -> Iterator[Generation]:
        return (recorder.generation for recorder, _ in self._recordings.values())

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return dict(self._outcomes)

    def count_outcome(self, generation_id: str, status: Status) -> None:
        """Note that this process has ended it."""
        log.info("generation ended", extra={"generation": generation_id, "status": str(status)})
        self._outcomes[str(status)] = self._outcomes.get(str(status), 0) + 1

    def pruning_regrets(self) -> tuple[int, float]:
        """Generations that ran in shadow, and the sum of the shares of gain that pruning would have lost them."""
        return self._pruning_regrets

    def new_claim(self) -> Claim:
        """A claim that nobody has yet."""
        return Claim(secrets.token_hex(16), self._lease_policy.lease_s)

    def new_recorder(
        self, generation: Generation, claim: Claim, *, durable: bool, preview_images: bool = True
    ) -> GenerationRecorder:
        """Who will write down the generation, once it is followed."""
        return GenerationRecorder(
            generation,
            claim,
            self._records,
            self._blobs,
            clock=self._clock,
            cancel=self._engine.cancel,
            on_write=self._notifier.notify,
            durable=durable,
            preview_images=preview_images,
        )

    def check_capacity(self, n_candidates: int) -> None:
        """Refuse what a caller brings without room for it. Raises as `Engine.check_capacity`, or when the queue comes
        first.
        """
        self._check_queue_order()
        self._engine.check_capacity(n_candidates)

    def submit(self, spec: GenerationSpec, sink: UpdateSink) -> None:
        """Hand the engine what a caller brings. Raises as `check_capacity`."""
        self._check_queue_order()
        self._engine.submit(spec, sink)
        self._queue_head_overtaken = True

    def _check_queue_order(self) -> None:
        if self._queue_overdue:
            stats = self._engine.stats()
            wait = stats.held * stats.seconds_per_candidate
            raise Overloaded("what was accepted before comes first", retry_after_s=wait or 1.0)

    def record(self, recorder: GenerationRecorder) -> None:
        """Write down what becomes of a generation that the engine has taken and the store knows."""
        name = recorder.generation.id
        task = asyncio.create_task(recorder.run(), name=f"follow {name}")
        self._recordings[name] = recorder, task
        task.add_done_callback(partial(self._recording_done, name))

    def recorder_for(self, generation_id: str) -> GenerationRecorder | None:
        """Who writes down this generation, while it is claimed by this process."""
        recorder, _ = self._recordings.get(generation_id, (None, None))
        return None if recorder is None or recorder.claim_lost else recorder

    async def wait_ended(self, generation_id: str, timeout_s: float | None = None) -> Generation | None:
        """What it ended as, when it ends here. Raises StoreUnavailable when it is not stored, see `check_stored`."""
        if generation_id not in self._recordings:
            return None
        recorder, task = self._recordings[generation_id]
        stuck = asyncio.create_task(recorder.stuck.wait())
        try:
            await asyncio.wait([task, stuck], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stuck.cancel()
        if not task.done():
            self.check_stored(generation_id)
        if recorder.claim_lost or not task.done():
            return None
        task.result()
        return recorder.generation

    def check_stored(self, generation_id: str) -> None:
        """Raises StoreUnavailable while this process fails to store the result; it retries in the background."""
        recorder = self.recorder_for(generation_id)
        if recorder is not None and recorder.stuck.is_set():
            raise StoreUnavailable("the store does not take the result yet; storing it is retried for some minutes")

    async def cancel(self, generation_id: str) -> Generation | None:
        """Stop it if it is claimed here; what it ended as."""
        if self.recorder_for(generation_id) is None:
            return None
        self._engine.cancel(generation_id)
        with suppress(StoreUnavailable):
            return await self.wait_ended(generation_id, CANCEL_TIMEOUT_S)
        return None

    async def run(self) -> None:
        """Claim what is in the queue while there is room for it, until cancelled."""
        while True:
            changed = self._notifier.subscribe(QUEUE_TOPIC)
            try:
                while await self._claim_next():
                    pass
            except StoreUnavailable:
                log.debug("the queue cannot be seen: the store is out of reach")
            await wait_until_set(changed, QUEUE_POLL_INTERVAL_S * random.uniform(0.8, 1.2))

    async def release_claims(self) -> None:
        """Let other processes take at once what has not ended here."""
        await asyncio.gather(*(recorder.release_claim() for recorder, _ in self._recordings.values()))

    async def close(self, timeout_s: float) -> None:
        """Wait for what is being written down; what is not after `timeout_s` is left to others."""
        tasks = [task for _, task in self._recordings.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _claim_next(self) -> bool:
        """Claim one; False when there is none, or no room, or when it is left to others."""
        stats = self._engine.stats()
        if not stats.ready or stats.draining:
            return False
        models, most = (self._engine.generator.id, self._engine.scorer.id), stats.capacity
        first = await self._records.next_claimable(*models, most, self._lease_policy.lease_s)
        if first is None or first != self._queue_head:
            self._queue_head, self._queue_head_since, self._queue_head_overtaken = first, time.monotonic(), False
        overdue = self._queue_head_overtaken and time.monotonic() - self._queue_head_since > QUEUE_OVERDUE_S
        stats = self._engine.stats()
        room = most - stats.held
        self._queue_overdue = overdue and first is not None and first.candidates > room
        if first is None or first.candidates > room or (stats.queued and not overdue):
            return False
        claim = self.new_claim()
        found = await self._records.claim(*models, room, claim, max_candidates=most)
        if found is None:
            return False
        generation = found.generation
        if generation.id in self._recordings:
            return await self._reclaim(generation, claim)
        revisions = self._engine.generator.revision, self._engine.scorer.revision
        mine = replace(generation, model_revision=revisions[0], scorer_revision=revisions[1])
        recorder = self.new_recorder(mine, claim, durable=True)
        failure = self._unrunnable_reason(found)
        if failure is not None:
            if await recorder.fail(failure):
                self.count_outcome(generation.id, Status.FAILED)
            return True
        try:
            self._engine.submit(generation.spec, recorder.put_updates, exclusive=generation.attempts > 0)
        except (Overloaded, Draining, EngineDead):
            await self._records.release(generation, claim)
            return False
        self.record(recorder)
        return True

    def _unrunnable_reason(self, found: Claimed) -> FrontrunnerError | None:
        """Why a claimed generation cannot be made, if so.

        What was accepted under other weights of the scorer is ranked by those of here, unless it refers to vectors.
        What begins as a picture needs the weights that its latents were encoded by.
        """
        generation, ranking = found.generation, found.generation.spec.ranking
        if generation.attempts >= self._lease_policy.max_attempts or found.claims - generation.attempts > MAX_CLAIMS:
            return Interrupted("every process that worked on this generation has died")
        other_weights = generation.scorer_revision not in {"", self._engine.scorer.revision}
        if other_weights and (ranking.references or ranking.taste):
            return ScorerMismatch("the weights that it was to be ranked by are not here")
        if generation.spec.start is not None and not made_by(self._engine.generator, generation):
            return NotFound("the weights that its first picture was encoded by are not here")
        return None

    async def _reclaim(self, generation: Generation, claim: Claim) -> bool:
        """This process's own claim had lapsed, for instance while the store was out of reach: go on with it."""
        recorder, _ = self._recordings[generation.id]
        if recorder.replace_claim(claim):
            return True
        await self._records.release(generation, claim)
        return False

    def _recording_done(self, generation_id: str, task: asyncio.Task[None]) -> None:
        """A generation is no longer followed: it is stored, another process's, or writing it down failed for good."""
        recorder, _ = self._recordings.pop(generation_id)
        if task.cancelled() or recorder.claim_lost:
            status = None
        elif task.exception() is not None:
            log.error("following a generation failed", exc_info=task.exception())
            status = None
        else:
            status = recorder.generation.status
        if status is not None:
            self.count_outcome(generation_id, status)
            if recorder.regret is not None:
                count, total = self._pruning_regrets
                self._pruning_regrets = count + 1, total + recorder.regret
        self._notifier.notify(generation_id)
        self._notifier.notify(QUEUE_TOPIC)
