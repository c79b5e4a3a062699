"""The service's use cases over one engine and one pair of stores. Event loop only; every error is of `app.errors`."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace

from app.domain import Event, Failure, Generation, Status
from app.engine.protocols import Engine, EngineStats
from app.errors import Draining, Interrupted, NotFound, NotReady, StoreUnavailable
from app.service import auth
from app.service.auth import can_view
from app.service.candidates.images import CandidateImages
from app.service.candidates.keys import blob_prefix
from app.service.generations.admission import Admission
from app.service.generations.attendance import Attendance
from app.service.generations.event_log import EventLogReader, Notifier, wait_until_set
from app.service.generations.orphans import Orphans
from app.service.generations.pruning_policy import PruningPlanner, PruningPolicy
from app.service.generations.recorder import closing_line
from app.service.generations.worker import LeasePolicy, Worker
from app.service.types import GenerationParams, IdempotencyKey, ImageFile, Limits, Manner, ParamsFactory, QueuePosition
from app.service.webhooks.dispatcher import WebhookPolicy
from app.stores.protocols import BlobStore, GenerationStore
from models.protocols import Calibration, GeneratorInfo, ScorerInfo

log = logging.getLogger(__name__)

POLL_S = 0.25
"""How often a log is looked at when another process writes it and the database tells nothing."""

NOTIFIED_POLL_S = 2.0
"""How often it is looked at all the same when writes are told of."""

STORE_RETRY_S = 30.0
"""How long those who watch a log bear with a store that is out of reach."""

HANDOVER_WAIT_S = 8.0
"""How long those who wait here for what was handed back may still get it from another replica."""

CLOSE_TIMEOUT_S = 10.0
"""How long a closing service waits for results to be stored."""

MIN_ABANDONED_AGE_S = 86_400.0
"""How long, at least, a generation may wait for a process that takes it."""

PING_TIMEOUT_S = 2.0
"""How long the stores may take to answer before this replica is not ready."""


class GenerationService:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        limits: Limits,
        *,
        lease_policy: LeasePolicy | None = None,
        pruning: PruningPolicy | None = None,
        hooks: WebhookPolicy | None = None,
        stream_grace_s: float = 30.0,
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._limits = limits
        self._notifier = Notifier()
        self._log_reader = EventLogReader(records)
        self._worker = Worker(engine, records, blobs, self._notifier, lease_policy or LeasePolicy(), records.clock)
        self._unready = False
        self._released_at = math.inf
        cut, policy = PruningPlanner(engine, pruning or PruningPolicy()), hooks or WebhookPolicy()
        self._admission = Admission(engine, records, self._worker, limits, cut, policy, self.get)
        self._images = CandidateImages(engine, records, blobs)
        self._attendance = Attendance(records, stream_grace_s, self._cancel_unattended)
        self._orphans = Orphans(records, blobs)

    @property
    def limits(self) -> Limits:
        """What a request may ask for."""
        return self._limits

    def models(self) -> tuple[GeneratorInfo, ScorerInfo]:
        """What is loaded. Raises Loading."""
        return self._engine.generator, self._engine.scorer

    def calibration(self) -> Calibration | None:
        """How well previews foretell scores with these models; None where nobody measured it. Raises Loading."""
        known = self._engine.calibration
        return known if known is not None and known.matches(*self.models()) else None

    def stats(self) -> EngineStats:
        """The engine's counters."""
        return self._engine.stats()

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return self._worker.outcomes()

    def pruning_regrets(self) -> tuple[int, float]:
        """Generations that ran in shadow, and the sum of the shares of gain that pruning would have lost them."""
        return self._worker.pruning_regrets()

    async def unready_reason(self) -> str | None:
        """None when requests are welcome, else one word why not: dead, loading, draining, full, store."""
        stats = self._engine.stats()
        for word, applies in (
            ("dead", stats.dead),
            ("loading", not stats.ready),
            ("draining", self._unready or stats.draining),
            ("full", stats.held >= stats.capacity),
        ):
            if applies:
                return word
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._records.ping()
                await self._blobs.ping()
        except (StoreUnavailable, TimeoutError):
            return "store"
        return None

    # generations

    async def submit(
        self,
        params: GenerationParams | ParamsFactory,
        *,
        idempotency: IdempotencyKey | None = None,
        queue_if_full: bool = False,
        previews: bool = True,
        attended: bool = False,
    ) -> Generation:
        """Check, fill in defaults, admit, record and hand to the engine. Returns it queued.

        With `idempotency` a request that was sent before returns its generation as it stands; a draft that is yet to be
        made is then not made, for what it names may have gone. With `queue_if_full` it is left in the
        queue for other replicas where this one has no room or is shutting down. Without `previews` its log
        need not show its previews. An `attended` one is cancelled once no client has watched it for the grace period.
        Raises InvalidRequest (with a pointer), KeyReused, QuotaExceeded, NotFound (model), Overloaded, Draining,
        Loading, EngineDead.
        """
        return await self._admission.run(params, idempotency, Manner(queue_if_full, previews, attended))

    async def get(self, generation_id: str) -> Generation:
        """The generation as it stands. Raises NotFound, also when it is not the caller's."""
        generation = await self._records.get(generation_id)
        if generation is None or not can_view(generation.spec.owner):
            raise NotFound("there is no such generation, or it was forgotten")
        return generation

    def queue_position(self, generation: Generation) -> QueuePosition:
        """Candidates that came before it and are still here, and the measured guess of the seconds to its result."""
        usual = self._engine.generator.steps
        ahead, shares = 0, generation.spec.n_candidates * generation.spec.steps_made / usual
        for held in self._worker:
            if held.id == generation.id:
                break
            ahead += held.spec.n_candidates
            shares += held.spec.n_candidates * held.spec.steps_made / usual
        eta = shares * self._engine.stats().seconds_per_candidate or None
        return QueuePosition(ahead, eta)

    async def wait(self, generation_id: str) -> Generation:
        """The generation once it is final, here or on another replica.

        Raises NotFound when it is forgotten meanwhile, StoreUnavailable if it is not stored, now or ever, Draining when
        this replica stops before another one has ended it.
        """
        generation = await self._worker.wait_ended(generation_id)
        if generation is None:
            async for _ in self._watch(generation_id, 0, HANDOVER_WAIT_S):
                pass
            generation = await self.get(generation_id)
        auth.settled(generation.delivered)
        return generation

    async def watch(self, generation_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The log after line `after`, then new lines as they come, until the closing one.

        Empty when `after` is the closing line or one that never was. Raises NotFound, StoreUnavailable, and Draining
        when this replica stops and the generation is another one's.
        """
        with self._attendance.following(await self.get(generation_id)):
            async for event in self._watch(generation_id, after, 0.0):
                yield event

    async def log_is_complete(self, generation_id: str, after: int) -> bool:
        """Whether the log has ended with line `after` or before it; if not, its client is back.

        Raises NotFound, StoreUnavailable.
        """
        generation = await self.get(generation_id)
        if generation.status.is_final:
            return not await self._records.events(generation_id, after, 1)
        if generation.attended:
            await self._records.record_attendance(generation_id)
        return False

    async def _watch(self, generation_id: str, after: int, handover_wait_s: float) -> AsyncIterator[Event]:
        """`watch`; `handover_wait_s` is how long a replica that stops goes on looking at what another one does."""
        ended = (await self.get(generation_id)).status.is_final
        idle, unavailable_since = False, None
        while True:
            changed = self._notifier.subscribe(generation_id)
            claimed_here = self._worker.recorder_for(generation_id) is not None
            try:
                events = await self._log_reader.read(generation_id, after, changed)
                unavailable_since = None
            except StoreUnavailable:
                unavailable_since = unavailable_since or time.monotonic()
                if time.monotonic() - unavailable_since > STORE_RETRY_S:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            for event in events:
                yield event
                after = event.seq
                if event.kind.is_final:
                    return
            if events:
                idle = False
                continue
            if ended:
                return
            self._worker.check_stored(generation_id)
            if not claimed_here and time.monotonic() > self._released_at + handover_wait_s:
                raise Draining("this replica stops before the generation has ended; another one goes on with it")
            ended = idle and await self._is_final(generation_id)
            idle = True
            if not ended:
                await wait_until_set(changed, NOTIFIED_POLL_S if claimed_here or self._records.notifies else POLL_S)

    async def _is_final(self, generation_id: str) -> bool:
        """Whether it is final; not as long as the store does not say so. Raises NotFound."""
        try:
            return (await self.get(generation_id)).status.is_final
        except StoreUnavailable:
            return False

    async def image(
        self, generation_id: str, index: int, output_format: str, size: tuple[int, int] | None = None
    ) -> ImageFile:
        """A candidate's image; `size` (width, height) never enlarges it. Raises NotFound, NotReady, InvalidRequest."""
        generation = await self.get(generation_id)
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}")
        return await self._images.image(generation, index, output_format, size)

    async def cancel(self, generation_id: str) -> Generation:
        """Stop it, wherever it runs; the record stays. Raises NotFound."""
        await self.get(generation_id)
        await self._worker.cancel(generation_id)
        generation = await self.get(generation_id)
        if generation.status.is_final:
            return generation
        await self._settle(replace(generation, status=Status.CANCELLED))
        return await self.get(generation_id)

    async def _cancel_unattended(self, generation_id: str, span_s: float) -> None:
        generation = await self._records.get(generation_id)
        if generation is None:
            return
        if await self._settle(replace(generation, status=Status.CANCELLED), unattended_s=span_s):
            self._engine.cancel(generation_id)

    async def _settle(self, generation: Generation, *, unattended_s: float | None = None) -> bool:
        """End it in the store, whoever has claimed it; whether this has ended it."""
        ended = replace(generation, finished=self._records.clock())
        settled = await self._records.settle(ended, [closing_line(ended)], unattended_s=unattended_s)
        if settled:
            self._worker.count_outcome(ended.id, ended.status)
        self._notifier.notify(ended.id)
        return settled

    async def cancel_on_disconnect(self, generation_id: str) -> None:
        """Nobody waits for it any more: stop it, wherever it runs. Out of reach of the store it may go on."""
        with suppress(NotFound, StoreUnavailable):
            if await self._worker.cancel(generation_id) is None:
                await self.cancel(generation_id)

    async def delete(self, generation_id: str) -> None:
        """Cancel if needed, then delete record, log and files. Raises NotFound."""
        await self.cancel(generation_id)
        await self._erase(generation_id)

    # upkeep

    async def run_worker(self) -> None:
        """Take from the queue what this replica has room for, and hear what others write, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run(), name="claim")
            group.create_task(self._records.listen(self._notifier.notify), name="listen")
            group.create_task(self._attendance.run(), name="attend")

    async def purge_expired(self, retention_s: float) -> int:
        """Forget all generations that are older, how many there were; then fail what nobody has taken for as long.

        That is what no replica can make, for want of the model or of room. A day is the least it may wait. Last go
        files without a generation.
        """
        now = await self._records.now()
        before, purged = now - retention_s, 0
        while expired := await self._records.list_expired(before):
            for generation_id in expired:
                await self._erase(generation_id)
            purged += len(expired)
        for generation_id in await self._records.list_abandoned(now - max(retention_s, MIN_ABANDONED_AGE_S)):
            await self._fail_abandoned(generation_id)
        await self._orphans.sweep()
        return purged

    async def _fail_abandoned(self, generation_id: str) -> None:
        generation = await self._records.get(generation_id)
        if generation is None:
            return
        reason = Interrupted("no process has taken it")
        failure = Failure(reason.code, reason.detail)
        await self._settle(replace(generation, status=Status.FAILED, failure=failure))

    def mark_unready(self) -> None:
        """Tell balancers to send requests elsewhere; those that come are served all the same."""
        self._unready = True

    async def release_claims(self) -> None:
        """Let other replicas take at once what has not ended here, and send those who watch it to them."""
        self._released_at = min(self._released_at, time.monotonic())
        await self._worker.release_claims()
        self._notifier.notify_all()

    async def close(self) -> None:
        """Wait for what is being written down; the engine must be closed first."""
        await self._worker.close(CLOSE_TIMEOUT_S)

    async def _erase(self, generation_id: str) -> None:
        """Files first: should this process die between, the record is still there to be forgotten again.

        Files again: a reader of the old record may have written one since. Later writers see that the record is gone.
        """
        await self._blobs.delete_prefix(blob_prefix(generation_id))
        await self._records.delete(generation_id)
        await self._blobs.delete_prefix(blob_prefix(generation_id))
        self._notifier.notify(generation_id)
