"""The last work on an outcome before it is stored.

It is judged by guards, ensemble and referee, and its images are enlarged.
"""

from __future__ import annotations

from dataclasses import replace

from app.domain import Candidate, Generation, GenerationSpec, Timings
from app.engine.protocols import Engine, Outcome
from app.engine.ranking.placement import Placements
from app.engine.ranking.scoring import rank_order
from app.service.candidates.generation_guards import GenerationGuards
from app.service.candidates.keys import member_array
from app.service.candidates.upscaling import LANCZOS, ImageUpscaler, file_scale, upscaled_notice
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.field import FieldRanking
from app.service.ranking.panel_scores import Judgeable, LeftOut


class Finisher:
    """See the module. Use in one event loop."""

    def __init__(self, engine: Engine, upscaler: ImageUpscaler, ensembles: Ensembles) -> None:
        self._engine = engine
        self._upscaler = upscaler
        self._ensembles = ensembles

    async def __call__(self, generation: Generation, outcome: Outcome, guards: GenerationGuards) -> Outcome:
        """The outcome as it is stored.

        `images` are the returned ones, `members` the arrays to store, by name.
        """
        with self._engine.hold():
            return await self._upscaled(generation, await self._judged(generation.spec, outcome, guards))

    async def _judged(self, spec: GenerationSpec, outcome: Outcome, guards: GenerationGuards) -> Outcome:
        """The outcome after guards, members and referee."""
        ranking = spec.ranking
        panel = {each.info.id: each for each in self._engine.panel}
        plain = not (ranking.contrast or ranking.scorers or ranking.balance)
        if len(panel) == 1 and plain and not guards.matter:
            return guards.timed(outcome)
        field = Judgeable(
            [c.score for c in outcome.candidates],
            outcome.embeddings,
            dict(outcome.members),
            images=outcome.images,
            left_out={name: LeftOut("failed", why) for name, why in outcome.left_out.items()},
        )
        ranked = FieldRanking(
            self._engine,
            self._ensembles,
            field,
            outcome.query,
            spec.ranking_prompt,
            ranking,
            spec.n,
            cascade=None if spec.deterministic else self._ensembles.cascade(ranking, _seconds(outcome.timings)),
            lenient=True,
        )
        pool = [c.index for c in outcome.candidates if c.is_finished and not c.is_withheld(spec.safety)]
        if ranking.contrast or ranking.balance or ranked.has_members or guards.matter:
            placements, outcome = await guards.place(ranked, outcome)
            outcome = _placed(outcome, ranked, placements)
            pool = ranked.verdict.pool
        scores = ranked.verdict.scores
        values = [float("nan") if (score := scores[i]) is None else score.score for i in pool]
        finalists = [pool[p] for p in rank_order(values) if scores[pool[p]] is not None]
        opinion, notices = await self._ensembles.referee.opinion(field, spec.ranking_prompt, finalists, spec.owner)
        kept = {
            member_array(name, panel[name].info.revision): vectors
            for name, vectors in field.members.items()
            if panel[name].role == "member"
        }
        returned = [c.index for c in outcome.candidates if c.rank is not None]
        return guards.timed(
            replace(
                outcome,
                images={i: outcome.images[i] for i in returned},
                members=kept,
                referee=opinion,
                notices=(*outcome.notices, *notices),
            )
        )

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


def _placed(outcome: Outcome, ranked: FieldRanking, placements: Placements) -> Outcome:
    verdict = ranked.verdict
    candidates: list[Candidate] = [
        p.apply_to(c, s) for p, c, s in zip(placements.placements, outcome.candidates, verdict.scores, strict=True)
    ]
    return replace(
        outcome,
        candidates=tuple(candidates),
        margin=placements.margin,
        margin_error=placements.margin_error,
        low_confidence=placements.low_confidence,
        agreement=verdict.agreement,
        judged=verdict.judged,
        embeddings=ranked.candidates.embeddings,
        notices=(*outcome.notices, *verdict.notices),
    )


def _seconds(timings: Timings) -> float:
    """Seconds on the device, without waiting."""
    return (timings.encode_ms + timings.denoise_ms + timings.preview_ms + timings.finish_ms) / 1000
