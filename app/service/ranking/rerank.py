"""What needs no sampling: ranking candidates by other words, or pictures made elsewhere, and walking a descent back.

Owns what a re-ranking is made of and what is kept of one. The mathematics is `app.engine.ranking.scoring`'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import (
    EventKind,
    Generation,
    GenerationSpec,
    Kinship,
    Negative,
    Notice,
    Parent,
    Ranking,
    Score,
    Status,
    Timings,
    Work,
)
from app.engine.notices import chance, contradictions, shortfall, truncation_notice, unrecognised
from app.engine.protocols import Engine
from app.engine.ranking import scoring as rank_math
from app.engine.ranking.placement import Place, Standing, stand
from app.errors import Invalid, NotFound
from app.service import auth
from app.service.candidates.arrays import Fields
from app.service.candidates.images import Gallery
from app.service.candidates.keys import field_key, folder, image_key
from app.service.idempotency import Idempotency
from app.service.ids import new_id
from app.service.types import Limits, Once, RankedImage, RankResult
from app.service.validation import bound, check_ranking, check_text
from app.stores.protocols import Blobs, Earlier, Key, Line, Records
from models.protocols import Embeddings, ScorerInfo

LINEAGE_LIMIT = 1000
"""Generations that are walked back; a dialogue is shorter."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """Another question to the same candidates. `n` None returns as many as the generation did.

    `include_pruned` lets candidates that were pruned compete with the score of their last preview. None lets them
    when the question has other words or references than the one they were pruned by: to the same question they
    have lost already, so the same settings give the same order. In a stored re-ranking that let them in they stay in.
    """

    ranking: Ranking
    n: int | None = None
    include_pruned: bool | None = None


MakeReranking: TypeAlias = Callable[[], Awaitable[tuple[Generation, Generation]]]
"""Gives a generation and its re-ranking; called only when the request is new."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A dialogue, the root first. `missing` is the ancestor that was forgotten, where the walk had to end."""

    generations: tuple[Generation, ...]
    missing: str | None


class Dialogue:
    """See the module. `get` gives a generation that the caller may see, or raises NotFound."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        blobs: Blobs,
        fields: Fields,
        limits: Limits,
        get: Callable[[str], Awaitable[Generation]],
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._fields = fields
        self._limits = limits
        self._get = get
        self._gallery = Gallery(engine, records, blobs)
        self._idempotency = Idempotency(records, get)

    async def rerank(self, source: Generation, asked: Reranking) -> Generation:
        """`source` as it would stand by another ranking; nothing is stored. Timings and work are the re-ranking's.

        Raises Invalid, NotReady, OtherScorer, Loading.
        """
        started = perf_counter()
        embeddings = await self._fields.embeddings(source)
        n = source.spec.n if asked.n is None else asked.n
        bound(n, 1, len(source.candidates), "#/n")
        check_ranking(asked.ranking, self._limits)
        spec = replace(source.spec, ranking=asked.ranking, n=n)
        query, notices = await self._query(spec.question, spec.ranking.negatives, spec.ranking)
        encoded = perf_counter()
        pool = _pool(source, spec, asked.include_pruned)
        compared = await asyncio.to_thread(_compared, embeddings, pool, query, spec.ranking, n, self._engine.scorer)
        scores, standing = compared
        candidates = [p.given_to(c, s) for p, c, s in zip(standing.places, source.candidates, scores, strict=True)]
        ended = perf_counter()
        return replace(
            source,
            spec=spec,
            candidates=tuple(candidates),
            margin=standing.margin,
            low_confidence=standing.low_confidence,
            warnings=(
                *notices,
                *chance([scores[i] for i in pool], self._engine.scorer, notices),
                *shortfall(spec, candidates),
            ),
            timings=Timings(encode_ms=1000 * (encoded - started), total_ms=1000 * (ended - started)),
            work=Work(),
            stopped=None,
        )

    async def rank(self, prompt: str, ranking: Ranking, images: AsyncIterable[list[NDArray[np.uint8]]]) -> RankResult:
        """Compare images (H, W, 3) of any sizes with a prompt; a batch is dropped before the next one is taken.

        Raises Invalid, Loading, EngineDead, and what `images` raises.
        """
        check_text(prompt, "#/prompt", self._limits, empty=False)
        check_ranking(ranking, self._limits)
        question = prompt if ranking.prompt is None else ranking.prompt
        query, notices = await self._query(question, ranking.negatives, ranking)
        embedded = []
        async for batch in images:
            embedded.append(await self._engine.embed_images(batch))
            batch.clear()
        count = sum(map(len, embedded))
        if not 1 <= count <= self._limits.images:
            raise Invalid(f"between 1 and {self._limits.images} images are taken", pointer="#/images")
        embeddings, everyone, scorer = np.concatenate(embedded), range(count), self._engine.scorer
        compared = await asyncio.to_thread(_compared, embeddings, everyone, query, ranking, count, scorer)
        scores, standing = compared
        return RankResult(
            scorer=scorer.id,
            prompt=prompt,
            ranking=ranking,
            images=tuple(_ranked(i, scores[i], standing.places[i]) for i in standing.returned),
            margin=standing.margin,
            low_confidence=standing.low_confidence,
            warnings=(*notices, *chance(scores, scorer, notices)),
        )

    async def keep(self, make: MakeReranking, once: Once | None = None) -> Generation:
        """Store a re-ranking as a generation of its own, and its source's child.

        The files are copied, so that either can be forgotten without the other, and counted as its candidates are.
        With `once` a request that was sent before gets what was stored then, and nothing is made. Raises NotFound when
        the files are gone, KeyReused, QuotaExceeded, StoreUnavailable, and what `make` does.
        """
        return await self._idempotency.run(once, partial(self._kept, make))

    async def _kept(self, make: MakeReranking, key: Key | None) -> Generation | Earlier:
        source, reranked = await make()
        now, spec = self._records.clock(), reranked.spec
        bill = auth.bill(len(reranked.candidates))
        own = replace(spec, id=new_id(), parent=Parent(Kinship.RERANK, spec.id))
        kept = replace(reranked, spec=own, status=Status.SUCCEEDED, created=now, started=now, finished=now)
        form = kept.output_format
        try:
            await self._blobs.put(field_key(own.id), await self._fields.file(spec.id))
            for candidate in kept.best:
                picture = await self._gallery.image(source, candidate.index, form, None)
                await self._blobs.put(image_key(own.id, candidate.index, form), picture.data)
            lines = [
                Line(EventKind.QUEUED, {"n_candidates": own.n_candidates}),
                Line(EventKind.SUCCEEDED, {"status": str(Status.SUCCEEDED)}),
            ]
            entered = await self._records.create(kept, lines, None, key, bill=bill)
            auth.charged(bill, entered)
        except BaseException:
            await self._blobs.delete_prefix(folder(own.id))
            raise
        if not isinstance(entered, Earlier):
            return kept
        await self._blobs.delete_prefix(folder(own.id))
        return entered

    async def lineage(self, generation_id: str) -> Lineage:
        """The generation and all it came from, the root first. Raises NotFound for the generation itself."""
        chain = [await self._get(generation_id)]
        while (parent := chain[-1].spec.parent) is not None and parent.generation is not None:
            try:
                chain.append(await self._get(parent.generation))
            except NotFound:
                return Lineage(tuple(reversed(chain)), parent.generation)
            if len(chain) == LINEAGE_LIMIT:
                return Lineage(tuple(reversed(chain)), None)
        return Lineage(tuple(reversed(chain)), None)

    async def _query(
        self, prompt: str, negatives: Sequence[Negative], ranking: Ranking
    ) -> tuple[rank_math.Query, tuple[Notice, ...]]:
        texts = (prompt, *(n.text for n in negatives))
        vectors = await self._engine.embed_texts(texts)
        stacked = np.stack([v.vector for v in vectors])
        query = rank_math.query(ranking, stacked[0], stacked[1:], [n.weight for n in negatives])
        cut = zip(texts, vectors, strict=True)
        notices = tuple(truncation_notice("scorer", t, v.truncation) for t, v in cut if v.truncation is not None)
        return query, (*notices, *unrecognised(texts, vectors), *contradictions(texts, stacked))


def _pool(source: Generation, spec: GenerationSpec, include_pruned: bool | None) -> list[int]:
    """Candidates that may be returned."""
    if include_pruned is None:
        competed = any(c.rank is not None and c.pruned_at_step is not None for c in source.candidates)
        include_pruned = competed or _words(source.spec) != _words(spec)
    return [c.index for c in source.candidates if include_pruned or c.pruned_at_step is None]


def _words(spec: GenerationSpec) -> tuple[object, ...]:
    """What a candidate is compared with, whatever the weights."""
    return spec.question, {n.text for n in spec.ranking.negatives}, {r.vector for r in spec.ranking.references}


def _compared(
    embeddings: Embeddings, pool: Sequence[int], query: rank_math.Query, asked: Ranking, n: int, scorer: ScorerInfo
) -> tuple[list[Score | None], Standing]:
    """Every picture's score, None where it is no number, and how they stand."""
    scores = [None if math.isnan(s.score) else s for s in rank_math.score(embeddings, query)]
    return scores, stand(scores, embeddings, pool, asked, n, scorer)


def _ranked(index: int, score: Score | None, place: Place) -> RankedImage:
    """An image that is returned, so it has a score and a rank."""
    assert score is not None
    assert place.rank is not None
    return RankedImage(index, place.rank, score, place.softmax, place.z_score, place.duplicate_of)
