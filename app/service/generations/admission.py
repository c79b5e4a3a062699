"""Admission of a generation: checked, filled in, charged, recorded and handed to the engine, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from app.domain import EventKind, Generation, Status
from app.engine.protocols import Engine
from app.errors import Draining, Overloaded, QuotaExceeded
from app.service import auth
from app.service.auth import owner
from app.service.generations.pruning_policy import Cutter
from app.service.generations.spec import resolve
from app.service.generations.worker import Works
from app.service.idempotency import Idempotency
from app.service.types import Draft, Limits, MakeDraft, Manner, Once
from app.service.webhooks.dispatcher import HookPolicy
from app.stores.protocols import Claim, Earlier, Key, Line, NoRoom, Records


class Admission:
    """See the module. `get` gives a generation that the caller may see."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        works: Works,
        limits: Limits,
        cut: Cutter,
        hooks: HookPolicy,
        get: Callable[[str], Awaitable[Generation]],
    ) -> None:
        self._engine = engine
        self._records = records
        self._works = works
        self._limits = limits
        self._cut = cut
        self._hooks = hooks
        self._idempotency = Idempotency(records, get)

    async def run(self, draft: Draft | MakeDraft, once: Once | None, manner: Manner) -> Generation:
        """See `Service.submit`."""
        return await self._idempotency.run(once, partial(self._admit, draft, manner))

    async def _admit(self, asked: Draft | MakeDraft, manner: Manner, key: Key | None) -> Generation | Earlier:
        """Make what was asked for as large as the caller's quota has room for, where the request leaves that open."""
        draft = asked if isinstance(asked, Draft) else await asked()
        if draft.n_candidates is None:
            draft = replace(draft, affordable=auth.quota())
        elif draft.n_candidates == "auto":
            draft = replace(draft, affordable=await auth.left(self._records.used))
        while True:
            try:
                return await self._begin(replace(draft, owner=owner()), manner, key)
            except QuotaExceeded as refusal:  # others may have been charged since
                if draft.n_candidates != "auto" or not draft.n <= refusal.left < (draft.affordable or 0):
                    raise
                draft = replace(draft, affordable=refusal.left)

    async def _begin(self, draft: Draft, manner: Manner, key: Key | None) -> Generation | Earlier:
        generator, scorer = self._engine.generator, self._engine.scorer
        self._hooks.check(draft.webhook)
        if not manner.patient:
            n_candidates = draft.n_candidates if isinstance(draft.n_candidates, int) else 1
            self._works.check(min(n_candidates, self._limits.candidates))
        spec, notices = await asyncio.to_thread(resolve, draft, generator, self._limits, self._cut)
        generation = Generation(
            spec,
            Status.QUEUED,
            self._records.clock(),
            generator.id,
            scorer.id,
            draft.output_format,
            warnings=notices,
            scorer_revision=scorer.revision,
            model_revision=generator.revision,
            webhook=draft.webhook,
            attended=manner.attended,
        )
        claim = self._works.new_claim()
        durable = manner.patient or key is not None
        pictured = durable or manner.watched or draft.partial_images > 0
        follower = self._works.follower(generation, claim, durable=durable, pictured=pictured)
        try:
            self._works.submit(spec, follower.sink)
        except (Overloaded, Draining) as refusal:
            if not manner.patient:
                raise
            try:
                return await self._enter(generation, None, key)
            except NoRoom:
                raise refusal from None
        try:
            entered = await self._enter(generation, claim, key)
        except BaseException:
            self._engine.cancel(spec.id)
            raise
        if isinstance(entered, Generation):
            self._works.follow(follower)
        else:
            self._engine.cancel(spec.id)
        return entered

    async def _enter(self, generation: Generation, claim: Claim | None, key: Key | None) -> Generation | Earlier:
        """Record it and charge the caller's quota; the earlier one where that has the key. Raises NoRoom."""
        n_candidates = generation.spec.n_candidates
        bill = auth.bill(n_candidates, "#/n_candidates")
        line = Line(EventKind.QUEUED, {"n_candidates": n_candidates})
        room = self._engine.stats().capacity if claim is None else None
        entered = await self._records.create(generation, [line], claim, key, bill=bill, room=room)
        if isinstance(entered, Earlier):
            return entered
        auth.charged(bill, entered)
        return generation
