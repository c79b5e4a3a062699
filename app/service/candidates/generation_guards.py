"""Guards of one generation: inspect its images as they finish, then its finalists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from app.domain import Flag, GenerationSpec
from app.engine.protocols import Finished, Outcome, Update
from app.engine.ranking.placement import Placements
from app.service.candidates.guards import ImageGuards, Inspected, Pixels, RankedField, inspect, veto_notices
from app.service.candidates.threads import run_in_thread
from models.protocols.guards import ARTEFACT, TYPOGRAPHIC


class GenerationGuards:
    """See the module."""

    def __init__(self, guards: ImageGuards, spec: GenerationSpec) -> None:
        self._guards = guards
        self._spec = spec
        self._flags: dict[int, Flag] = {}
        self._seconds = 0.0

    @property
    def matter(self) -> bool:
        """Whether they may change the ranking of what has finished."""
        return bool(self._flags) or TYPOGRAPHIC in self._spec.guards

    async def inspect(self, updates: Sequence[Update]) -> None:
        """Look for artefacts in finished images."""
        finished = [(u.index, u.image) for u in updates if isinstance(u, Finished)]
        if not finished or ARTEFACT not in self._spec.guards:
            return
        started = perf_counter()
        limits = self._guards.artefact_limits(adapted=bool(self._spec.loras))
        pixels = sum(image.shape[0] * image.shape[1] for _, image in finished)
        self._flags |= await run_in_thread(pixels, partial(inspect, finished, limits))
        self._seconds += perf_counter() - started

    async def place(self, ranked: RankedField, outcome: Outcome) -> tuple[Placements, Outcome]:
        """Place the finished candidates, and return the outcome with flags and notices."""
        done = [c.index for c in outcome.candidates if c.is_finished and not c.is_withheld(self._spec.safety)]
        found = Inspected(done, {index: (flag,) for index, flag in self._flags.items()})

        async def image_at(index: int) -> Pixels:
            return outcome.images[index]

        placements = await self._guards.place(ranked, found, self._spec.guards, image_at)
        self._seconds += found.seconds
        return placements, replace(
            outcome,
            candidates=tuple(replace(c, flags=found.flags.get(c.index, ())) for c in outcome.candidates),
            notices=(*outcome.notices, *found.notices, *veto_notices(found.flags, self._spec.ranking)),
            work=replace(outcome.work, images_read=len(found.read)),
        )

    def timed(self, outcome: Outcome) -> Outcome:
        """The outcome with the time of the guards."""
        timings, ms = outcome.timings, 1000 * self._seconds
        return replace(
            outcome, timings=replace(timings, guard_ms=timings.guard_ms + ms, total_ms=timings.total_ms + ms)
        )
