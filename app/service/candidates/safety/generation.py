"""Safety of one generation: classify its images, and rank without flagged ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from app.domain import Candidate, GenerationSpec, Notice, Safety, SafetyVerdict
from app.engine.protocols import Engine, Finished, Outcome, Previewed, Update
from app.engine.ranking.placement import place_candidates
from app.engine.ranking.probability import known_match
from app.errors import AllFlagged, SafetyUnavailable
from app.service.candidates.safety.checker import SafetyChecker

Key = tuple[int, int]
"""Index and step of a preview."""


class GenerationSafety:
    """See the module. With `previews`, previews are shown, and classified before."""

    def __init__(self, checker: SafetyChecker, engine: Engine, spec: GenerationSpec, *, previews: bool) -> None:
        self._checker = checker
        self._engine = engine
        self._spec = spec
        self._previews = previews
        self._finished: dict[int, SafetyVerdict] = {}
        self._previewed: dict[Key, SafetyVerdict] = {}
        self._unavailable: SafetyUnavailable | None = None
        self._seconds = 0.0

    @property
    def active(self) -> bool:
        """Whether images are classified."""
        return self._spec.safety is not Safety.OFF

    @property
    def previewed(self) -> Mapping[Key, SafetyVerdict] | None:
        """Verdicts of previews; None if they are not classified."""
        return self._previewed if self.active else None

    async def inspect(self, updates: Sequence[Update]) -> None:
        """Classify the images of updates; a missing classifier is raised by `apply`."""
        if not self.active or self._unavailable is not None:
            return
        seen = [u for u in updates if isinstance(u, Finished) or (self._previews and isinstance(u, Previewed))]
        started = perf_counter()
        try:
            verdicts = await self._checker.classify([u.image for u in seen])
        except SafetyUnavailable as error:
            self._unavailable = error
            return
        for update, verdict in zip(seen, verdicts, strict=True):
            if isinstance(update, Finished):
                self._finished[update.index] = verdict
            else:
                self._previewed[update.index, update.step] = verdict
        self._seconds += perf_counter() - started

    async def apply(self, outcome: Outcome) -> Outcome:
        """The outcome with verdicts; under `veto` ranked without flagged candidates.

        Raises SafetyUnavailable, and AllFlagged if all finished candidates are flagged.
        """
        if not self.active:
            return outcome
        if self._unavailable is not None:
            raise self._unavailable
        candidates = self.judged(outcome.candidates)
        ms, timings = 1000 * self._seconds, outcome.timings
        outcome = replace(
            outcome,
            candidates=candidates,
            notices=(*outcome.notices, *_notices(candidates, self._spec.safety)),
            timings=replace(timings, guard_ms=timings.guard_ms + ms, total_ms=timings.total_ms + ms),
        )
        withheld = [c.index for c in candidates if c.is_withheld(self._spec.safety)]
        return await self._without(outcome, withheld) if withheld else outcome

    def judged(self, candidates: Sequence[Candidate], *, placed: bool = True) -> tuple[Candidate, ...]:
        """Candidates with verdicts of the finished image, else of the last preview.

        Unless `placed`, none is returned.
        """
        last = {index: self._previewed[index, step] for index, step in sorted(self._previewed)}
        found = {**last, **self._finished}
        return tuple(replace(c, safety=found.get(c.index), rank=c.rank if placed else None) for c in candidates)

    async def _without(self, outcome: Outcome, withheld: Sequence[int]) -> Outcome:
        done = [c.index for c in outcome.candidates if c.is_finished]
        pool = [index for index in done if index not in withheld]
        if not pool:
            raise all_flagged(len(done))
        spec, scores = self._spec, [c.score for c in outcome.candidates]
        engine = self._engine
        match = known_match(engine.calibration, engine.generator, engine.scorer)
        placements = await asyncio.to_thread(
            partial(place_candidates, match=match),
            scores,
            outcome.embeddings,
            pool,
            spec.ranking,
            spec.n,
            engine.scorer,
        )
        rows = zip(placements.placements, outcome.candidates, scores, strict=True)
        return replace(
            outcome,
            candidates=tuple(place.apply_to(candidate, score) for place, candidate, score in rows),
            margin=placements.margin,
            margin_error=placements.margin_error,
            low_confidence=placements.low_confidence,
        )


def all_flagged(count: int) -> AllFlagged:
    """The error that no candidate is left."""
    return AllFlagged(
        f"the safety classifier flagged every finished candidate ({count}): change the prompt or raise `n_candidates`"
    )


def _notices(candidates: Sequence[Candidate], mode: Safety) -> tuple[Notice, ...]:
    verdicts = {c.index: c.safety for c in candidates if c.safety is not None}
    flagged = [index for index, verdict in verdicts.items() if verdict.flagged]
    no_number = [index for index, verdict in verdicts.items() if None in verdict.scores.values()]
    failed = [index for index, verdict in verdicts.items() if not verdict.scores]
    done = "withheld" if mode is Safety.VETO else "marked"
    told = (
        ("candidates_flagged", f"the safety classifier flagged images, which are {done}", flagged),
        (
            "safety_not_a_number",
            "the safety classifier returned no number for images, which count as flagged",
            no_number,
        ),
        ("safety_failed", "the safety classifier failed on images, which count as flagged", failed),
    )
    return tuple(Notice(code, f"{detail}: {len(those)}", {"indices": those}) for code, detail, those in told if those)
