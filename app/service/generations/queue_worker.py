"""This process's generations, claimed at submit or from the shared queue.

A replica claims while its device has nothing waiting, so work goes where there is room. When all replicas are busy,
queue head and new requests alternate. Unfinished work is released; after a crash, another replica claims it when the
lease expires.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain import Generation, GenerationSpec, Status
from app.engine.protocols import Engine, UpdateSink
from app.errors import (
    Draining,
    EngineDead,
    FrontrunnerError,
    Interrupted,
    Loading,
    NotFound,
    Overloaded,
    ScorerMismatch,
    StoreUnavailable,
)
from app.service.candidates.guards import ImageGuards
from app.service.candidates.images import made_by
from app.service.candidates.inputs import load_inputs
from app.service.candidates.safety import NO_SAFETY, GenerationSafety, SafetyChecker
from app.service.candidates.sealing import FileSealer
from app.service.generations.event_log import QUEUE_TOPIC, Notifier, wait_until_set
from app.service.generations.pruning_policy import device_share
from app.service.generations.recorder import START_STORE_DELAY_S, GenerationRecorder
from app.service.generations.recording.recordings import Recordings
from app.service.ranking.finishing import Finisher
from app.service.types import ModelDemand, QueuePosition
from app.stores.protocols import BatchStore, BlobStore, Claim, Claimable, Claimed, GenerationStore
from models.protocols.image_inputs import ImageInputs

log = logging.getLogger(__name__)

QUEUE_POLL_INTERVAL_S = 1.0
"""Seconds between queue polls without notifications."""

QUEUE_OVERDUE_S = 2.0
"""Seconds a busy replica leaves the queue head to idle ones."""

WAITING_LIFE_S = 0.5
"""Seconds that all models use one answer about the queue."""

BATCH_SHARE = 4
"""Entries of batches hold at most the capacity divided by this, or one entry."""

SHARED_CLAIMS = 2
"""Claims under which a generation runs beside others.

A process may die before it has stored the first start.
"""

MAX_CLAIMS = 5
"""Claims that may be lost before a generation starts."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """Lease length, and the maximum attempts after worker loss.

    Retries run exclusively, which isolates a generation that crashes its replica.
    """

    lease_s: float = 60.0
    max_attempts: int = 2


class WaitingModels:
    """Models with claimable work, which all models of a process ask for in one query."""

    def __init__(self, records: GenerationStore, notifier: Notifier, lease_s: float) -> None:
        self._records = records
        self._notifier = notifier
        self._lease_s = lease_s
        self._looking: asyncio.Task[frozenset[str]] | None = None
        self._changed: asyncio.Event | None = None
        self._began = 0.0

    async def includes(self, model: str) -> bool:
        """Whether the queue had work for it a moment ago. Raises StoreUnavailable.

        No answer is older than the newest notification of the queue.
        """
        now, changed = time.monotonic(), self._notifier.subscribe(QUEUE_TOPIC)
        outdated = changed is not self._changed or now - self._began > WAITING_LIFE_S
        if self._looking is None or outdated or _has_failed(self._looking):
            self._looking = asyncio.create_task(self._records.waiting_models(self._lease_s), name="waiting models")
            self._changed, self._began = changed, now
        return model in await asyncio.shield(self._looking)


def _has_failed(task: asyncio.Task[frozenset[str]]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


class Worker:
    """The recorded generations of one model and process, oldest first."""

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        notifier: Notifier,
        lease_policy: LeasePolicy,
        clock: Callable[[], float],
        finisher: Finisher,
        sealer: FileSealer,
        guards: ImageGuards | None = None,
        batches: BatchStore | None = None,
        demand: ModelDemand | None = None,
        safety: SafetyChecker | None = None,
    ) -> None:
        self._safety = safety or SafetyChecker(NO_SAFETY)
        self._demand = demand
        self._finisher = finisher
        self._sealer = sealer
        self._guards = guards or ImageGuards(engine)
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._notifier = notifier
        self._lease_policy = lease_policy
        self._clock = clock
        self._batches = batches
        self.recordings = Recordings(records, lease_policy.lease_s, engine.cancel, self._on_end)
        self._found_work = True
        self._queue_head: Claimable | None = None
        self._queue_head_since = 0.0
        self._queue_head_overtaken = False
        self._queue_overdue = False
        self._lost = ""

    def new_claim(self) -> Claim:
        """A new claim."""
        return Claim(secrets.token_hex(16), self._lease_policy.lease_s)

    def new_recorder(
        self,
        generation: Generation,
        claim: Claim,
        last_seq: int,
        *,
        durable: bool,
        preview_images: bool = True,
        retried: bool = False,
    ) -> GenerationRecorder:
        """A recorder whose log ends at `last_seq`; `Recordings` starts it."""
        return GenerationRecorder(
            generation,
            claim,
            last_seq,
            self._records,
            self._blobs,
            clock=self._clock,
            cancel=self._engine.cancel,
            finisher=self._finisher,
            sealer=self._sealer,
            guards=self._guards,
            safety=GenerationSafety(self._safety, self._engine, generation.spec, previews=preview_images),
            on_write=self._notifier.notify,
            is_followed=self._notifier.has_subscribers,
            durable=durable,
            preview_images=preview_images,
            start_delay_s=0.0 if retried else START_STORE_DELAY_S,
        )

    def check_capacity(self, n_candidates: int) -> None:
        """Raises as `Engine.check_capacity`, or Overloaded if the queue is first."""
        self._check_queue_order()
        self._engine.check_capacity(n_candidates)

    def submit(self, spec: GenerationSpec, sink: UpdateSink, inputs: ImageInputs | None = None) -> None:
        """Submit a request to the engine. Raises as `check_capacity`."""
        self._check_queue_order()
        self._engine.submit(spec, sink, inputs=inputs)
        self._queue_head_overtaken = True

    def _check_queue_order(self) -> None:
        if self._queue_overdue:
            stats = self._engine.stats()
            wait = stats.held * stats.seconds_per_candidate
            raise Overloaded(
                "server busy: earlier queued generations run first; retry after the interval in `Retry-After`",
                retry_after_s=wait or 1.0,
            )

    def queue_position(self, generation: Generation) -> QueuePosition:
        """Earlier candidates still here, and the estimated seconds to the result."""
        ahead, shares = 0, device_share(self._engine, generation.spec)
        for held in self.recordings:
            if held.id == generation.id:
                break
            ahead += held.spec.n_candidates
            shares += device_share(self._engine, held.spec)
        return QueuePosition(ahead, shares * self._engine.stats().seconds_per_candidate or None)

    def expect_work(self) -> None:
        """Look for work at the next end: this process left some to the queue."""
        self._found_work = True

    def _on_end(self, generation_id: str) -> None:
        self._notifier.notify(generation_id)
        if self._found_work:  # else the next notification or look finds new work
            self._notifier.notify(QUEUE_TOPIC)

    async def run(self) -> None:
        """Claim queued generations while there is room, until cancelled."""
        while True:
            changed = self._notifier.subscribe(QUEUE_TOPIC)
            try:
                while await self._claim_next():
                    pass
            except StoreUnavailable:
                log.debug("queue poll failed: the store is unavailable")
            await wait_until_set(changed, QUEUE_POLL_INTERVAL_S * random.uniform(0.8, 1.2))

    async def _claim_next(self) -> bool:
        """Claim one; False if there is none, no room, or others should have it."""
        stats = self._engine.stats()
        self._found_work = True
        if stats.draining or not stats.ready:
            self._queue_head, self._queue_overdue = None, False
            return not stats.draining and await self._demand_model()
        models, most = (self._engine.generator.id, self._engine.scorer.id), stats.capacity
        weights = self._engine.generator.revision
        first = await self._records.next_claimable(*models, most, self._lease_policy.lease_s, weights)
        if first is None or first != self._queue_head:
            self._queue_head, self._queue_head_since, self._queue_head_overtaken = first, time.monotonic(), False
        overdue = self._queue_head_overtaken and time.monotonic() - self._queue_head_since > QUEUE_OVERDUE_S
        stats = self._engine.stats()
        room = most - stats.held
        self._queue_overdue = overdue and first is not None and first.candidates > room
        if first is None:
            if not stats.queued and await self._claim_entry(room):
                return True
            self._found_work = await self._holds_back_entry()
            return False
        if first.candidates > room or (stats.queued and not overdue):
            return False
        claim = self.new_claim()
        found = await self._records.claim(*models, room, claim, max_candidates=most, weights=weights)
        return self._looks_again(first) if found is None else await self._start_claimed(found, claim)

    def _looks_again(self, lost: Claimable) -> bool:
        """Whether to try the next one at once: another replica was first.

        False if the same one was lost before: its claim may take that replica some time.
        """
        before, self._lost = self._lost, lost.generation_id
        return before != self._lost

    async def _demand_model(self) -> bool:
        """Load a model for queued work, or fail such work; return whether it failed."""
        if self._demand is None or not await self._demand.has_work():
            return False
        queue = self._demand.model, None, self._engine.stats().capacity
        waiting = await self._records.next_claimable(*queue, self._lease_policy.lease_s)
        entry = None
        if waiting is None and self._batches is not None:
            waiting = entry = await self._batches.next_entry(*queue, self._lease_policy.lease_s)
        if waiting is None:
            return False
        failure, claim = await self._demand.failure(), self.new_claim()
        if failure is None:
            self._demand.ask()
            return False
        if entry is not None and self._batches is not None:
            claimed = await self._batches.claim(entry.generation_id, claim)
        else:
            claimed = await self._records.claim(*queue, claim)
        if claimed is None:
            return self._looks_again(waiting)
        if await self.new_recorder(claimed.generation, claim, claimed.last_seq, durable=True).fail(failure):
            self.recordings.count_outcome(claimed.generation.id, Status.FAILED)
        return True

    async def _holds_back_entry(self) -> bool:
        """Whether an entry of a batch may wait for the end of what is held."""
        if any(held.batch is not None for held in self.recordings):
            return True
        stats = self._engine.stats()
        if self._batches is None or not stats.held:
            return False
        models, weights = (self._engine.generator.id, self._engine.scorer.id), self._engine.generator.revision
        return await self._batches.next_entry(*models, stats.capacity, self._lease_policy.lease_s, weights) is not None

    async def _claim_entry(self, room: int) -> bool:
        """Claim an entry of a batch while no request waits.

        Entries hold at most a share of the capacity, and one runs at a time beside requests.
        """
        entries = [held for held in self.recordings if held.batch is not None]
        beside_requests = len(entries) < len(self.recordings)
        if self._batches is None or (entries and beside_requests):
            return False
        held = sum(entry.spec.n_candidates for entry in entries)
        share = max(1, self._engine.stats().capacity // BATCH_SHARE)
        models = self._engine.generator.id, self._engine.scorer.id
        most = room if not entries else min(room, share - held)
        weights = self._engine.generator.revision
        entry = await self._batches.next_entry(*models, most, self._lease_policy.lease_s, weights)
        if entry is None:
            return False
        claim = self.new_claim()
        found = await self._batches.claim(entry.generation_id, claim)
        return self._looks_again(entry) if found is None else await self._start_claimed(found, claim)

    async def _start_claimed(self, found: Claimed, claim: Claim) -> bool:
        """Run a claimed generation; False if it was released again."""
        generation = found.generation
        if generation.id in self.recordings:
            return await self._reclaim(found, claim)
        revisions = self._engine.generator.revision, self._engine.scorer.revision
        mine = replace(generation, model_revision=revisions[0], scorer_revision=revisions[1])
        recorder = self.new_recorder(mine, claim, found.last_seq, durable=True, retried=found.claims > 1)
        failure = self._unrunnable_reason(found)
        if failure is not None:
            if await recorder.fail(failure):
                self.recordings.count_outcome(generation.id, Status.FAILED)
            return True
        exclusive = generation.attempts > 0 or found.claims > SHARED_CLAIMS
        return await self._submit_claimed(generation, claim, recorder, exclusive=exclusive)

    async def _submit_claimed(
        self, generation: Generation, claim: Claim, recorder: GenerationRecorder, *, exclusive: bool
    ) -> bool:
        """Submit a claimed generation.

        False if it cannot run now; the claim is then released.
        """
        try:
            inputs = await load_inputs(self._blobs, generation.spec)
            self._engine.submit(generation.spec, recorder.put_updates, exclusive=exclusive, inputs=inputs)
        except NotFound as gone:
            if await recorder.fail(gone):
                self.recordings.count_outcome(generation.id, Status.FAILED)
            return True
        except (Overloaded, Draining, Loading, EngineDead, StoreUnavailable):
            await self._records.release(generation, claim)
            return False
        self.recordings.record(recorder)
        return True

    def _unrunnable_reason(self, found: Claimed) -> FrontrunnerError | None:
        """Why a claimed generation cannot run, or None.

        With other scorer weights it is ranked by the loaded ones, unless it refers to vectors. With an initial image it
        needs the weights that encoded its latents.
        """
        generation, ranking = found.generation, found.generation.spec.ranking
        if generation.attempts >= self._lease_policy.max_attempts or found.claims - generation.attempts > MAX_CLAIMS:
            return Interrupted("every process that ran this generation crashed: submit it again")
        other_weights = generation.scorer_revision not in {"", self._engine.scorer.revision}
        if other_weights and (ranking.references or ranking.taste):
            return ScorerMismatch("the scorer weights of its references are not loaded: load them or submit it again")
        if generation.spec.start is not None and not made_by(self._engine.generator, generation):
            return NotFound("the weights that encoded its initial image are not loaded: load them or submit it again")
        return None

    async def _reclaim(self, found: Claimed, claim: Claim) -> bool:
        """Continue under a new claim after the own one expired, e.g. in an outage."""
        if self.recordings.recorders()[found.generation.id].replace_claim(claim, found.last_seq):
            return True
        await self._records.release(found.generation, claim)
        return False
