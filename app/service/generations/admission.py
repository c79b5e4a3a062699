"""Admission: check, charge, record and submit a generation, or reject it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from app.domain import EventKind, Generation, Status
from app.engine.protocols import Engine
from app.errors import Draining, ModelAway, Overloaded, QuotaExceeded
from app.service import auth
from app.service.auth import current_owner
from app.service.candidates.inputs import save_inputs
from app.service.candidates.keys import blob_prefix
from app.service.candidates.safety import SafetyChecker
from app.service.candidates.sealing import FileSealer
from app.service.generations.pruning_policy import PruningPlanner
from app.service.generations.queue_worker import Worker
from app.service.generations.sizing import settle_size
from app.service.generations.spec import build_spec
from app.service.idempotency import Idempotency
from app.service.types import GenerationParams, IdempotencyKey, Limits, ParamsFactory, PreparedGeneration, SubmitOptions
from app.service.webhooks.dispatcher import WebhookPolicy
from app.stores.protocols import BlobStore, Claim, GenerationStore, IdempotencyMatch, KeyRecord, NewEvent, QueueFull


class Admission:
    """See the module. `get` returns a generation that the caller may see."""

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        worker: Worker,
        limits: Limits,
        cut: PruningPlanner,
        hooks: WebhookPolicy,
        get: Callable[[str], Awaitable[Generation]],
        sealer: FileSealer,
        safety: SafetyChecker,
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._worker = worker
        self._limits = limits
        self._cut = cut
        self._hooks = hooks
        self._sealer = sealer
        self._safety = safety
        self._idempotency = Idempotency(records, get)

    async def run(
        self, params: GenerationParams | ParamsFactory, once: IdempotencyKey | None, options: SubmitOptions
    ) -> Generation:
        """See `GenerationService.submit`."""
        return await self._idempotency.run(once, partial(self._admit, params, options))

    async def _admit(
        self, asked: GenerationParams | ParamsFactory, options: SubmitOptions, key: KeyRecord | None
    ) -> Generation | IdempotencyMatch:
        """If the number of candidates is open, fit it to the quota."""
        params = asked if isinstance(asked, GenerationParams) else await asked()
        if params.n_candidates is None:
            params = replace(params, affordable=auth.quota_limit())
        elif params.n_candidates == "auto":
            params = replace(params, affordable=await auth.remaining_quota(self._records.quota_used))
        while True:
            try:
                return await self._begin(replace(params, owner=current_owner()), options, key)
            except QuotaExceeded as refusal:  # concurrent requests were charged since
                if params.n_candidates != "auto" or not params.n <= refusal.left < (params.affordable or 0):
                    raise
                params = replace(params, affordable=refusal.left)

    async def prepare_entry(self, params: GenerationParams) -> PreparedGeneration:
        """The generation of a batch's entry, checked and completed, not stored.

        Raises as `GenerationService.submit`.
        """
        params = replace(params, owner=current_owner(), affordable=auth.quota_limit())
        return PreparedGeneration(await self._prepare(params), params.inputs)

    async def _prepare(self, params: GenerationParams) -> Generation:
        generator, scorer = self._engine.generator, self._engine.scorer
        self._hooks.check(params.webhook)
        provenance = params.provenance or self._limits.provenance
        self._sealer.check(provenance)
        mode, told = self._safety.admit(params.safety, (params.prompt, *params.wordings))
        params = replace(params, safety=mode, notices=(*params.notices, *told))
        params = settle_size(params, generator, self._limits)
        build = partial(build_spec, params, generator, self._limits, self._cut)
        spec, notices = await asyncio.to_thread(build) if self._cut.may_plan(params) else build()
        await self._engine.prepare(spec)
        return Generation(
            spec,
            Status.QUEUED,
            self._records.clock(),
            generator.id,
            scorer.id,
            params.output_format,
            warnings=notices,
            scorer_revision=scorer.revision,
            model_revision=generator.revision,
            webhook=params.webhook,
            output_size=params.output_size,
            provenance=provenance,
            job=params.job,
        )

    async def _begin(
        self, params: GenerationParams, options: SubmitOptions, key: KeyRecord | None
    ) -> Generation | IdempotencyMatch:
        if not options.queue_if_full:
            n_candidates = params.n_candidates if isinstance(params.n_candidates, int) else 1
            self._worker.check_capacity(min(n_candidates, self._limits.candidates))
        generation = replace(await self._prepare(params), attended=options.attended)
        if params.inputs is None:
            return await self._start(generation, params, options, key)
        return await self._start_with_inputs(generation, params, options, key)

    async def _start_with_inputs(
        self, generation: Generation, params: GenerationParams, options: SubmitOptions, key: KeyRecord | None
    ) -> Generation | IdempotencyMatch:
        """Store the images before the record, and delete them if no record is made."""
        assert params.inputs is not None
        entered: Generation | IdempotencyMatch | None = None
        try:
            await save_inputs(self._blobs, generation.spec, params.inputs)
            entered = await self._start(generation, params, options, key)
            return entered
        finally:
            if not isinstance(entered, Generation):
                await self._blobs.delete_prefix(blob_prefix(generation.id))

    async def _start(
        self, generation: Generation, params: GenerationParams, options: SubmitOptions, key: KeyRecord | None
    ) -> Generation | IdempotencyMatch:
        """Submit the generation to the engine, or else to the shared queue, and record it."""
        claim = self._worker.new_claim()
        durable = options.queue_if_full or key is not None
        preview_images = durable or options.previews or params.partial_images > 0
        shown = {"durable": durable, "preview_images": preview_images}
        recorder = self._worker.new_recorder(generation, claim, len(_first_lines(generation)), **shown)
        try:
            self._worker.submit(generation.spec, recorder.put_updates, params.inputs)
        except (Overloaded, Draining, ModelAway) as refusal:
            if not (options.queue_if_full or isinstance(refusal, ModelAway)):
                raise
            try:
                return await self._enter(generation, None, key, away=isinstance(refusal, ModelAway))
            except QueueFull:
                raise refusal from None
        try:
            entered = await self._enter(generation, claim, key)
        except BaseException:
            self._engine.cancel(generation.id)
            raise
        if isinstance(entered, Generation):
            self._worker.recordings.record(recorder)
        else:
            self._engine.cancel(generation.id)
        return entered

    async def _enter(
        self, generation: Generation, claim: Claim | None, key: KeyRecord | None, *, away: bool = False
    ) -> Generation | IdempotencyMatch:
        """Store the generation and charge the caller's quota.

        The log of one that waits for a model which is `away` says so. Returns the match if another one holds the key.
        Raises QueueFull.
        """
        n_candidates = generation.spec.n_candidates
        charge = auth.quota_charge(n_candidates, "#/n_candidates")
        lines = _first_lines(generation)
        if away:
            lines.append(NewEvent(EventKind.LOADING, {"model": generation.model}))
        room = self._engine.stats().capacity if claim is None else None
        entered = await self._records.create(generation, lines, claim, key, charge=charge, room=room)
        if claim is None:
            self._worker.expect_work()
        if isinstance(entered, IdempotencyMatch):
            return entered
        auth.record_usage(charge, entered)
        return generation


def _first_lines(generation: Generation) -> list[NewEvent]:
    return [NewEvent(EventKind.QUEUED, {"n_candidates": generation.spec.n_candidates})]
