"""A field of candidates with the scorers of its ranking: placed, and scored again.

The one path from scores to places for generations, re-rankings and uploads. Guards use it by their own protocol.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.domain import Notice, Ranking, Score
from app.engine.audits.findings import classify
from app.engine.protocols import Engine
from app.engine.ranking import scoring
from app.engine.ranking.balance import BalancedField, mean_cost, quotas
from app.engine.ranking.placement import Placements, place_candidates
from app.engine.ranking.probability import known_match
from app.errors import FrontrunnerError
from app.service.ranking.ensemble import Ensembles, Verdict
from app.service.ranking.panel_scores import Image, Judgeable, LeftOut
from models.protocols import Embeddings, ScorerInfo, ScoringInfo

CERTAINTY = 0.75
"""Share of the likeliest value below which a candidate has no value."""


@dataclass(slots=True, eq=False)
class FieldRanking:
    """See the module.

    `n` candidates are to be returned, `query` is what the main scorer compares with. `verdict` is that of the last
    placement. `cascade` holds if the ranking names none: how many candidates the scorers without embeddings see, None
    for all. With `lenient`, a placement does without `contrast` if the near misses cannot be read.
    """

    engine: Engine
    ensembles: Ensembles
    candidates: Judgeable
    query: scoring.Query
    prompt: str
    ranking: Ranking
    n: int
    cascade: int | None = None
    lenient: bool = False
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        scores = tuple(self.candidates.scores)
        self.verdict = Verdict(scores, [], combined=False, agreement=None, notices=())

    @property
    def has_members(self) -> bool:
        """Whether the ranking names scorers beside the main one."""
        main = self.engine.scorer.id
        return set(self.ranking.weights(main)) != {main}

    async def place(self, pool: Sequence[int]) -> Placements:
        """Place the candidates when the best of the `pool` are returned.

        Raises FrontrunnerError if the near misses of `contrast` cannot be read.
        """
        self.verdict = verdict = await self._judge(pool)
        engine = self.engine
        match = known_match(engine.calibration, engine.generator, engine.scorer)
        balanced = await self._balanced()
        place = partial(place_candidates, combined=verdict.combined, match=match, balanced=balanced)
        placements = await asyncio.to_thread(
            place,
            verdict.scores,
            self.candidates.embeddings,
            verdict.pool,
            self.ranking,
            self.n,
            self.engine.scorer,
        )
        if balanced is not None:
            notice = balance_notice(self.ranking, balanced, verdict, placements)
            self.verdict = replace(self.verdict, notices=(*self.verdict.notices, notice))
        return placements

    async def _balanced(self) -> BalancedField | None:
        """The values of all candidates by the main scorer.

        None if none are asked for, or cannot be read.
        """
        balance = self.ranking.balance
        if balance is None:
            return None
        try:
            vectors = await self.engine.embed_texts([text for text, _ in balance.values])
        except FrontrunnerError as error:
            if not self.lenient:
                raise
            detail = f"`balance` has no effect, because its texts could not be read: {error.detail}"
            notice = Notice("balance_left_out", detail)
            self.verdict = replace(self.verdict, notices=(*self.verdict.notices, notice))
            return None
        texts, scale = np.stack([each.vector for each in vectors]), self.engine.scorer.logit_scale
        found = await asyncio.to_thread(classify, self.candidates.embeddings, texts, scale, CERTAINTY)
        return BalancedField(tuple(share for _, share in balance.values), tuple(found.tolist()))

    async def lower(self, index: int, image: Image) -> None:
        """Score another image of a candidate; the lower score of every scorer counts.

        A member that fails is left out of the field. Raises FrontrunnerError if the main scorer fails.
        """
        known, vector = self.candidates.scores[index], (await self.engine.embed_images([image]))[0]
        score = scoring.score_images(vector[None], self.query)[0]
        if known is not None and score.score < known.score:
            self.candidates.scores[index] = score
            self.candidates.embeddings = _replaced(self.candidates.embeddings, index, vector)
        for member in self.ensembles.members_of(self.ranking):
            name = member.info.id
            try:
                if name in self.candidates.left_out:
                    continue
                if isinstance(member.info, ScoringInfo):
                    await self._lower_number(index, image, member.info)
                elif name in self.candidates.members:
                    await self._lower_vector(index, image, member.info)
            except LeftOut as left:
                self.candidates.left_out[name] = left
                self.candidates.known.pop(name, None)

    async def _lower_number(self, index: int, image: Image, info: ScoringInfo) -> None:
        known = self.candidates.known.get(info.id, {})
        if index in known:
            (score,) = (await self.ensembles.panel.score([image], self.prompt, info)).tolist()
            known[index] = min(known[index], score)

    async def _lower_vector(self, index: int, image: Image, info: ScorerInfo) -> None:
        panel, vectors = self.ensembles.panel, self.candidates.members[info.id]
        both = np.stack([vectors[index], (await panel.vectors([image], info))[0]])
        (before, after), _ = await panel.embedded(both, info, self.prompt, self.ranking)
        if after < before:
            self.candidates.members[info.id] = _replaced(vectors, index, both[1])

    async def _judge(self, pool: Sequence[int]) -> Verdict:
        if not (self.ranking.contrast or self.has_members):
            return Verdict(tuple(self.candidates.scores), list(pool), combined=False, agreement=None, notices=())
        ranking = self.ranking
        if ranking.cascade is None:
            ranking = replace(ranking, cascade=self.cascade)
        try:
            return await self.ensembles.judge(self.candidates, self.prompt, ranking, pool, self.n)
        except FrontrunnerError as error:
            if not self.lenient:
                raise
            plain = replace(ranking, contrast=False)
            verdict = await self.ensembles.judge(self.candidates, self.prompt, plain, pool, self.n)
            detail = f"`contrast` has no effect, because the near misses could not be read: {error.detail}"
            return replace(verdict, notices=(*verdict.notices, Notice("contrast_left_out", detail)))


def balance_notice(ranking: Ranking, balanced: BalancedField, verdict: Verdict, placements: Placements) -> Notice:
    """What a balance returned, and what it cost in mean score."""
    assert ranking.balance is not None
    returned, pool = placements.returned, verdict.pool
    scores = [_eligible_score(verdict.scores[i], placements.placements[i].probability, ranking) for i in pool]
    cost = mean_cost(scores, [pool.index(index) for index in returned], len(returned))
    asked, got = quotas(balanced.shares, len(returned)), balanced.counts(returned)
    rows = zip(ranking.balance.values, asked, got, strict=True)
    data = {
        "attribute": ranking.balance.attribute,
        "cost": cost,
        "values": [{"text": text, "asked": want, "returned": have} for (text, _), want, have in rows],
    }
    short = any(have < want for want, have in zip(asked, got, strict=True))
    detail = f"the mean score of the returned images is {cost:.4f} lower than without `balance`"
    if short:
        detail += "; too few candidates have some values, so the best others took their places: raise `n_candidates`"
    return Notice("balance_not_reached" if short else "balanced", detail, data)


def _eligible_score(score: Score | None, probability: float | None, ranking: Ranking) -> float:
    """The score of a candidate that the limits of the ranking admit, else NaN."""
    if score is None or (ranking.min_score is not None and score.score < ranking.min_score):
        return math.nan
    likely = ranking.min_probability is None or (probability is not None and probability >= ranking.min_probability)
    return score.score if likely else math.nan


def _replaced(vectors: Embeddings, index: int, vector: NDArray[np.float32]) -> Embeddings:
    """A copy of vectors (N, D) with another one at `index`."""
    vectors = vectors.copy()
    vectors[index] = vector
    return vectors
