"""Guards of one generation: inspect its images as they finish, then rank again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

from app.domain import Flag, GenerationSpec
from app.engine.protocols import Finished, Outcome, Update
from app.service.candidates.guards import (
    Field,
    Flags,
    GuardedRanking,
    ImageGuards,
    Pixels,
    inspect,
    unread_notices,
    veto_notices,
)
from models.protocols.guards import ARTEFACT, TYPOGRAPHIC


class GenerationGuards:
    """See the module."""

    def __init__(self, guards: ImageGuards, spec: GenerationSpec) -> None:
        self._guards = guards
        self._spec = spec
        self._flags: dict[int, Flag] = {}
        self._seconds = 0.0
        self._field: Field | None = None

    async def inspect(self, updates: Sequence[Update]) -> None:
        """Look for artefacts in finished images, in a thread."""
        finished = [(u.index, u.image) for u in updates if isinstance(u, Finished)]
        if not finished or ARTEFACT not in self._spec.guards:
            return
        started = perf_counter()
        limits = self._guards.artefact_limits(adapted=bool(self._spec.loras))
        self._flags |= await asyncio.to_thread(inspect, finished, limits)
        self._seconds += perf_counter() - started

    async def apply(self, outcome: Outcome) -> Outcome:
        """The outcome with flags, and ranked again if guards change the ranking."""
        spec = self._spec
        if not self._flags and TYPOGRAPHIC not in spec.guards:
            return self._timed(outcome, self._seconds)
        done = [c.index for c in outcome.candidates if c.pruned_at_step is None]
        flags: Flags = {index: (flag,) for index, flag in self._flags.items()}
        field = Field([c.score for c in outcome.candidates], outcome.embeddings, done, flags, seconds=self._seconds)
        asked = GuardedRanking(spec.ranking_prompt, outcome.query, spec.ranking, spec.n)

        async def image_at(index: int) -> Pixels:
            return outcome.images[index]

        self._field = field
        placements = await self._guards.place(field, asked, spec.guards, image_at)
        rows = zip(placements.placements, outcome.candidates, field.scores, strict=True)
        candidates = tuple(p.apply_to(replace(c, flags=field.flags.get(c.index, ())), s) for p, c, s in rows)
        guarded = replace(
            outcome,
            candidates=candidates,
            margin=placements.margin,
            low_confidence=placements.low_confidence,
            embeddings=field.embeddings,
            notices=(*outcome.notices, *field.notices, *veto_notices(field.flags, spec.ranking)),
            work=replace(outcome.work, images_read=len(field.read)),
        )
        return self._timed(guarded, field.seconds)

    def check(self, outcome: Outcome) -> Outcome:
        """The outcome after all scorers, with a notice if they return unread images."""
        if self._field is None:
            return outcome
        ranked = sorted((c.rank, c.index) for c in outcome.candidates if c.rank is not None)
        returned = [index for _, index in ranked]
        notices = unread_notices(self._field, self._spec.ranking_prompt, self._spec.guards, returned)
        return replace(outcome, notices=(*outcome.notices, *notices))

    def _timed(self, outcome: Outcome, seconds: float) -> Outcome:
        timings, ms = outcome.timings, 1000 * seconds
        return replace(outcome, timings=replace(timings, guard_ms=ms, total_ms=timings.total_ms + ms))
