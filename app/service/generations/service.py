"""The generation use cases over one engine and its stores.

Use in one event loop; every error is from `app.errors`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace

from app.domain import Event, Failure, Generation, Status
from app.engine.protocols import Engine, EngineStats
from app.errors import Interrupted, NotFound, NotReady, StoreUnavailable
from app.service import auth
from app.service.auth import can_view, current_owner
from app.service.candidates.guards import ImageGuards
from app.service.candidates.images import CandidateImages
from app.service.candidates.safety import NO_SAFETY, SafetyChecker
from app.service.candidates.sealing import FileSealer
from app.service.candidates.upscaling import ImageUpscaler
from app.service.generations.admission import Admission
from app.service.generations.attendance import Attendance
from app.service.generations.event_log import QUEUE_TOPIC, Notifier
from app.service.generations.orphaned_files import Orphans, erase_generation
from app.service.generations.pruning_policy import PruningPlanner, PruningPolicy
from app.service.generations.queue_worker import LeasePolicy, Worker
from app.service.generations.recording.final_record import closing_line
from app.service.generations.recording.log_watcher import LogWatcher
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.finishing import Finisher
from app.service.types import (
    GenerationParams,
    IdempotencyKey,
    ImageFile,
    Limits,
    ModelDemand,
    ParamsFactory,
    PreparedGeneration,
    QueuePosition,
    SubmitOptions,
)
from app.service.webhooks.dispatcher import WebhookPolicy
from app.stores.protocols import BatchStore, BlobStore, GenerationStore, ListQuery, PageMark
from models.protocols import Calibration, GeneratorInfo, ScorerInfo
from models.protocols.upscaling import UpscalerInfo

HANDOVER_WAIT_S = 8.0
"""Seconds that waiting requests may get a released result from another replica."""

CLOSE_TIMEOUT_S = 10.0
"""Seconds a closing service waits for results to be stored."""

MIN_ABANDONED_AGE_S = 86_400.0
"""Minimum seconds a generation may wait for a process that claims it."""

PING_TIMEOUT_S = 2.0
"""Seconds for the stores to answer before this replica is unready."""


class GenerationService:
    """See the module. `cancel_run` cancels on all engines; `demand` loads the model."""

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
        batches: BatchStore | None = None,
        sealer: FileSealer | None = None,
        guards: ImageGuards | None = None,
        ensembles: Ensembles | None = None,
        notifier: Notifier | None = None,
        cancel_run: Callable[[str], None] | None = None,
        demand: ModelDemand | None = None,
        safety: SafetyChecker | None = None,
    ) -> None:
        self._engine = engine
        self._cancel_run = cancel_run or engine.cancel
        self._records, self._blobs, self._limits = records, blobs, limits
        self._notifier = notifier or Notifier()
        self._upscaler, sealer = ImageUpscaler(engine), sealer or FileSealer()
        self.safety = safety or SafetyChecker(NO_SAFETY)
        files, leases = (self.safety, self._upscaler, sealer), lease_policy or LeasePolicy()
        finisher = Finisher(engine, self._upscaler, ensembles or Ensembles(engine))
        parts = (finisher, sealer, guards, batches, demand, self.safety)
        self._worker = Worker(engine, records, blobs, self._notifier, leases, records.clock, *parts)
        self._recordings = self._worker.recordings
        self._logs = LogWatcher(records, self._notifier, self._recordings, self._visible, self._has_stopped)
        self._unready, self._released_at = False, math.inf
        cut, policy = PruningPlanner(engine, pruning or PruningPolicy()), hooks or WebhookPolicy()
        checks = (limits, cut, policy, self.get, sealer, self.safety)
        self._admission = Admission(engine, records, blobs, self._worker, *checks)
        self._images = CandidateImages(engine, records, blobs, limits, *files)
        self._attendance = Attendance(records, stream_grace_s, self._cancel_unattended)
        self._orphans = Orphans(records, blobs)

    @property
    def limits(self) -> Limits:
        """Limits of a request."""
        return self._limits

    def models(self) -> tuple[GeneratorInfo, ScorerInfo]:
        """The loaded models. Raises Loading."""
        return self._engine.generator, self._engine.scorer

    def upscaler(self) -> UpscalerInfo | None:
        """The loaded upscaler, if any. Raises Loading."""
        return self._upscaler.info

    def calibration(self) -> Calibration | None:
        """How well previews predict scores; None if unmeasured. Raises Loading."""
        known = self._engine.calibration
        return known if known is not None and known.matches(*self.models()) else None

    def stats(self) -> EngineStats:
        """The engine's counters."""
        return self._engine.stats()

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return self._recordings.outcomes()

    def pruning_regrets(self) -> tuple[int, float]:
        """Number of shadow generations, and the sum of their lost gain shares."""
        return self._recordings.pruning_regrets()

    async def unready_reason(self, stats: EngineStats | None = None) -> str | None:
        """None if ready, else one of dead, loading, draining, full, store.

        `stats` are those of all models of the process, if it serves several.
        """
        stats = stats or self._engine.stats()
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

    async def submit(
        self,
        params: GenerationParams | ParamsFactory,
        *,
        idempotency: IdempotencyKey | None = None,
        queue_if_full: bool = False,
        previews: bool = True,
        attended: bool = False,
    ) -> Generation:
        """Check, complete, admit, record and submit; returns the queued generation.

        With `idempotency`, a repeated request returns its generation and resolves no parameters. With `queue_if_full`,
        it waits for other replicas if this one is full or shutting down. Without `previews`, its log may omit preview
        images. An `attended` one is cancelled when no client has watched it for the grace period. Raises InvalidRequest
        (with a pointer), KeyReused, QuotaExceeded, NotFound (model), Overloaded, Draining, Loading, EngineDead.
        """
        return await self._admission.run(params, idempotency, SubmitOptions(queue_if_full, previews, attended))

    async def prepare(self, params: GenerationParams) -> PreparedGeneration:
        """See `Admission.prepare_entry`."""
        return await self._admission.prepare_entry(params)

    def wake_worker(self) -> None:
        """Look for claimable generations at once."""
        self._notifier.notify(QUEUE_TOPIC)

    async def get(self, generation_id: str) -> Generation:
        """The current generation. Raises NotFound, also for another owner's."""
        generation = await self._visible(generation_id)
        if generation.status is Status.RUNNING and self._recordings.recorder_for(generation_id) is None:
            await self._logs.requests.ask(generation_id)
        return self._newest(generation)

    async def _visible(self, generation_id: str) -> Generation:
        """The stored generation, without a request for progress. Raises as `get`."""
        generation = await self._records.get(generation_id)
        if generation is None or not can_view(generation.spec.owner):
            raise NotFound("there is no such generation, or it was deleted: check the id")
        return generation

    def _newest(self, generation: Generation) -> Generation:
        """A stored generation with its progress, if it runs here."""
        recorder = None if generation.status.is_final else self._recordings.recorder_for(generation.id)
        if recorder is None or not recorder.has_stored_start:
            return generation
        here = recorder.generation
        return replace(generation, status=here.status, started=here.started, progress=here.progress)

    async def find(self, query: ListQuery, after: PageMark | None, limit: int) -> tuple[list[Generation], bool]:
        """The caller's own generations older than `after`, and whether more follow.

        Newest first; the query's owner is replaced.
        """
        found = await self._records.find(replace(query, owner=current_owner()), after, limit + 1)
        return [self._newest(each) for each in found[:limit]], len(found) > limit

    def queue_position(self, generation: Generation) -> QueuePosition:
        """Earlier candidates still here, and the estimated seconds to the result."""
        return self._worker.queue_position(generation)

    async def wait(self, generation_id: str, *, attended: bool = False) -> Generation:
        """The final generation, from this or another replica.

        With `attended`, it is recorded that a client waits. Raises NotFound if it is deleted, StoreUnavailable if it is
        not stored, Draining if this replica stops first.
        """
        with self._attendance.waiting(generation_id) if attended else nullcontext():
            return await self._wait(generation_id)

    async def _wait(self, generation_id: str) -> Generation:
        generation = await self._recordings.wait_ended(generation_id)
        if generation is None:
            await self._logs.wait_ended(generation_id, HANDOVER_WAIT_S)
            generation = await self.get(generation_id)
        auth.settle_charge(generation.delivered)
        return generation

    async def watch(self, generation_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Events after `after`, then new ones as they come, up to the closing one.

        Empty if `after` is the closing event or does not exist. Raises NotFound, StoreUnavailable, and Draining if this
        replica stops while another one runs the generation.
        """
        generation = await self.get(generation_id)
        with self._attendance.following(generation):
            async for event in self._logs.follow(generation_id, after, 0.0):
                yield self.safety.shown(event, generation.spec.safety)

    async def known_events(self, generation_id: str, after: int = 0) -> list[Event]:
        """Events after `after` that are known now. Raises NotFound, StoreUnavailable."""
        generation = await self.get(generation_id)
        found = await self._logs.known(generation, after)
        return [self.safety.shown(event, generation.spec.safety) for event in found]

    async def log_is_complete(self, generation_id: str, after: int) -> bool:
        """Whether the log ends at event `after` or before; if not, record the client.

        Raises NotFound, StoreUnavailable.
        """
        generation = await self.get(generation_id)
        if generation.status.is_final:
            return not await self._records.events(generation_id, after, 1)
        if generation.attended:
            await self._records.record_attendance(generation_id)
        return False

    async def image(
        self, generation_id: str, index: int, output_format: str, size: tuple[int, int] | None = None
    ) -> ImageFile:
        """A candidate's image, scaled to fit `size` (width, height).

        Raises NotFound, NotReady, InvalidRequest.
        """
        generation = await self.get(generation_id)
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}: wait until it has succeeded")
        return await self._images.image(generation, index, output_format, size)

    async def cancel(self, generation_id: str) -> Generation:
        """Cancel it on any replica; the record stays. Raises NotFound."""
        await self.get(generation_id)
        await self._recordings.cancel(generation_id)
        if not (generation := await self.get(generation_id)).status.is_final:
            await self._settle(replace(generation, status=Status.CANCELLED))
        return await self.get(generation_id)

    async def _cancel_unattended(self, generation_id: str, span_s: float) -> None:
        generation = await self._records.get(generation_id)
        cancelled = replace(generation, status=Status.CANCELLED) if generation is not None else None
        if cancelled is not None:
            await self._settle(cancelled, unattended_s=span_s)

    async def _settle(self, generation: Generation, *, unattended_s: float | None = None) -> bool:
        """End it in the store regardless of claims; whether this call ended it."""
        ended = replace(generation, finished=self._records.clock())
        settled = await self._records.settle(ended, [closing_line(ended)], unattended_s=unattended_s)
        if settled:
            self._recordings.count_outcome(ended.id, ended.status)
            self._cancel_run(ended.id)
        self._notifier.notify(ended.id)
        return settled

    async def cancel_on_disconnect(self, generation_id: str) -> None:
        """Cancel on any replica, without a client; in a store outage it may run on."""
        with suppress(NotFound, StoreUnavailable):
            if await self._recordings.cancel(generation_id) is None:
                await self.cancel(generation_id)

    async def delete(self, generation_id: str) -> None:
        """Cancel if needed, then delete record, log and files. Raises NotFound."""
        await self.cancel(generation_id)
        await self._erase(generation_id)

    async def claim_queued(self) -> None:
        """Claim queued generations of this model, until cancelled."""
        await self._worker.run()

    async def run_worker(self) -> None:
        """Claim queued generations and receive notifications, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.claim_queued(), name="claim")
            group.create_task(self._records.listen(self._notifier.notify), name="listen")
            group.create_task(self._attendance.run(), name="attend")

    async def purge_expired(self, retention_s: float) -> int:
        """Delete older generations and return their number.

        Then fail generations unclaimed for as long (at least a day), for which no replica has the model or room. Last,
        delete files without a record.
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
        reason = Interrupted("no process could run it: check that a replica has its models and room, then submit again")
        await self._settle(replace(generation, status=Status.FAILED, failure=Failure(reason.code, reason.detail)))

    def mark_unready(self) -> None:
        """Report unready so balancers stop; requests are still served."""
        self._unready = True

    def _has_stopped(self, seconds: float) -> bool:
        """Whether the claims were released that long ago."""
        return time.monotonic() > self._released_at + seconds

    async def release_claims(self) -> None:
        """Release unfinished generations, and send their watchers to other replicas."""
        self._released_at = min(self._released_at, time.monotonic())
        await self._recordings.release_claims()
        self._notifier.notify_all()

    async def close(self) -> None:
        """Wait for recorders; close the engine first."""
        await self._recordings.close(CLOSE_TIMEOUT_S)

    async def _erase(self, generation_id: str) -> None:
        await erase_generation(self._records, self._blobs, generation_id)
        self._notifier.notify(generation_id)
