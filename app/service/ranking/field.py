"""A field of candidates with the scorers of its ranking: placed, and scored again.

The one path from scores to places for generations, re-rankings and uploads. Guards use it by their own protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.domain import Notice, Ranking
from app.engine.protocols import Engine
from app.engine.ranking import scoring
from app.engine.ranking.placement import Placements, place_candidates
from app.errors import FrontrunnerError
from app.service.ranking.ensemble import Ensembles, Verdict
from app.service.ranking.panel_scores import Image, Judgeable, LeftOut
from models.protocols import Embeddings, ScorerInfo, ScoringInfo


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
        place = partial(place_candidates, combined=verdict.combined)
        return await asyncio.to_thread(
            place,
            verdict.scores,
            self.candidates.embeddings,
            verdict.pool,
            self.ranking,
            self.n,
            self.engine.scorer,
        )

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


def _replaced(vectors: Embeddings, index: int, vector: NDArray[np.float32]) -> Embeddings:
    """A copy of vectors (N, D) with another one at `index`."""
    vectors = vectors.copy()
    vectors[index] = vector
    return vectors
