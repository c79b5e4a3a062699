"""The last work on an outcome before it is stored.

It is judged by the ensemble and the referee, and its images are enlarged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from app.domain import Candidate, Generation, GenerationSpec, Notice
from app.engine.protocols import Engine, Outcome
from app.engine.ranking.placement import Placements, place_candidates
from app.engine.ranking.scoring import rank_order
from app.errors import FrontrunnerError
from app.service.candidates.keys import member_array
from app.service.candidates.upscaling import LANCZOS, ImageUpscaler, file_scale, upscaled_notice
from app.service.ranking.ensemble import Ensembles, Verdict
from app.service.ranking.panel_scores import Judgeable


class Finisher:
    """See the module. Use in one event loop."""

    def __init__(self, engine: Engine, upscaler: ImageUpscaler, ensembles: Ensembles) -> None:
        self._engine = engine
        self._upscaler = upscaler
        self._ensembles = ensembles

    async def __call__(self, generation: Generation, outcome: Outcome) -> Outcome:
        """The outcome as it is stored.

        `images` are the returned ones, `members` the arrays to store, by name.
        """
        with self._engine.hold():
            return await self._upscaled(generation, await self._judged(generation.spec, outcome))

    async def _judged(self, spec: GenerationSpec, outcome: Outcome) -> Outcome:
        """The outcome after members and referee."""
        ranking, main = spec.ranking, self._engine.scorer
        panel = {each.info.id: each for each in self._engine.panel}
        if len(panel) == 1 and not ranking.contrast and not ranking.scorers:
            return outcome
        scores = [c.score for c in outcome.candidates]
        field = Judgeable(
            scores, outcome.embeddings, outcome.members, {}, images=outcome.images, left_out=outcome.left_out
        )
        pool = [c.index for c in outcome.candidates if c.pruned_at_step is None and not c.is_vetoed(ranking)]
        if ranking.contrast or set(ranking.weights(main.id)) != {main.id}:
            verdict = await self._judge(field, spec, pool)
            place = partial(place_candidates, combined=verdict.combined)
            placements = await asyncio.to_thread(
                place, verdict.scores, outcome.embeddings, verdict.pool, ranking, spec.n, main
            )
            outcome, scores = _placed(outcome, verdict, placements), list(verdict.scores)
            pool = verdict.pool
        values = [float("nan") if (score := scores[i]) is None else score.score for i in pool]
        finalists = [pool[p] for p in rank_order(values) if scores[pool[p]] is not None]
        opinion, notices = await self._ensembles.referee.opinion(field, spec.ranking_prompt, finalists)
        kept = {
            member_array(name, panel[name].info.revision): vectors
            for name, vectors in outcome.members.items()
            if panel[name].role == "member"
        }
        returned = [c.index for c in outcome.candidates if c.rank is not None]
        return replace(
            outcome,
            images={i: outcome.images[i] for i in returned},
            members=kept,
            referee=opinion,
            notices=(*outcome.notices, *notices),
        )

    async def _judge(self, field: Judgeable, spec: GenerationSpec, pool: Sequence[int]) -> Verdict:
        """The verdict; without `contrast` if the near misses cannot be read."""
        try:
            return await self._ensembles.judge(field, spec.ranking_prompt, spec.ranking, pool, spec.n)
        except FrontrunnerError as error:
            plain = replace(spec.ranking, contrast=False)
            verdict = await self._ensembles.judge(field, spec.ranking_prompt, plain, pool, spec.n)
            detail = f"`contrast` has no effect, because the near misses could not be read: {error.detail}"
            return replace(verdict, notices=(*verdict.notices, Notice("contrast_left_out", detail)))

    async def _upscaled(self, generation: Generation, outcome: Outcome) -> Outcome:
        """The outcome with the returned images enlarged, if the files are larger."""
        scale, images = file_scale(generation), dict(outcome.images)
        returned = [c for c in outcome.candidates if c.rank is not None]
        if scale <= 1 or not returned:
            return outcome
        for candidate in returned:
            image = outcome.images[candidate.index]
            prompt = generation.spec.sampling_prompt(candidate.index)
            images[candidate.index], made = await self._upscaler.upscale(image, scale, prompt, candidate.seed)
            if made.upscaler == LANCZOS:  # all images are made alike
                images = dict(outcome.images)
                break
        notice = upscaled_notice(generation, made, [c.index for c in returned])
        return replace(outcome, images=images, notices=(*outcome.notices, notice))


def _placed(outcome: Outcome, verdict: Verdict, placements: Placements) -> Outcome:
    candidates: list[Candidate] = [
        p.apply_to(c, s) for p, c, s in zip(placements.placements, outcome.candidates, verdict.scores, strict=True)
    ]
    return replace(
        outcome,
        candidates=tuple(candidates),
        margin=placements.margin,
        low_confidence=placements.low_confidence,
        agreement=verdict.agreement,
        notices=(*outcome.notices, *verdict.notices),
    )
