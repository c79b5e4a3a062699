"""Ranking without sampling: re-rank candidates, rank uploads, list ancestors.

This module owns how a re-ranking is composed and stored. The formulas are in `app.engine.ranking.scoring`.
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
    Flag,
    Generation,
    GenerationSpec,
    Negative,
    Notice,
    Parent,
    ParentKind,
    Ranking,
    Score,
    Status,
    Timings,
    Work,
)
from app.engine.notices import (
    contradiction_notices,
    shortfall_notices,
    truncation_notice,
    unrecognised,
    unrecognised_prompt_notices,
)
from app.engine.protocols import Engine, PanelScorer
from app.engine.ranking import scoring as rank_math
from app.engine.ranking.placement import Placement
from app.engine.texts.clip_limits import clip_limit_notices
from app.engine.texts.readings import reading_notices
from app.errors import InvalidRequest, NotFound
from app.service import auth
from app.service.candidates.arrays import CandidateArrays
from app.service.candidates.guards import Flags, ImageAt, ImageGuards, Inspected, inspect, veto_notices
from app.service.candidates.images import CandidateImages
from app.service.candidates.inputs import copy_inputs
from app.service.candidates.keys import arrays_key, blob_prefix, image_key
from app.service.candidates.safety import NO_SAFETY, SafetyChecker
from app.service.candidates.sealing import FileSealer
from app.service.candidates.upscaling import UPSCALED
from app.service.idempotency import Idempotency
from app.service.ids import new_id
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.field import FieldRanking
from app.service.ranking.panel_scores import Judgeable
from app.service.ranking.unflagged import place_unflagged
from app.service.types import IdempotencyKey, Limits, RankedImage, RankResult
from app.service.validation import active_guards, check_range, check_ranking, check_text
from app.stores.protocols import BlobStore, GenerationStore, IdempotencyMatch, KeyRecord, NewEvent
from models.protocols import Embeddings, ScoringInfo
from models.protocols.guards import ARTEFACT, ArtefactLimits

MAX_LINEAGE = 1000
"""Maximum number of ancestors that are followed."""


@dataclass(frozen=True, slots=True)
class RerankParams:
    """Another ranking of the same candidates; `n` None keeps the generation's.

    `include_pruned` lets pruned candidates compete by their last preview's score. None includes them if prompt,
    negatives or references differ from those they were pruned by, so equal settings give equal order. It also includes
    them if the stored re-ranking did.
    """

    ranking: Ranking
    n: int | None = None
    include_pruned: bool | None = None


MakeReranking: TypeAlias = Callable[[], Awaitable[tuple[Generation, Generation]]]
"""Returns a generation and its re-ranking; called only for new requests."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A generation and its ancestors, the root first.

    `missing` is a deleted ancestor, where the list ends.
    """

    generations: tuple[Generation, ...]
    missing: str | None


class RankingService:
    """See the module.

    `get` returns a generation that the caller may see, or raises NotFound.
    """

    def __init__(
        self,
        engine: Engine,
        records: GenerationStore,
        blobs: BlobStore,
        fields: CandidateArrays,
        limits: Limits,
        get: Callable[[str], Awaitable[Generation]],
        sealer: FileSealer | None = None,
        guards: ImageGuards | None = None,
        ensembles: Ensembles | None = None,
        safety: SafetyChecker | None = None,
    ) -> None:
        self._engine = engine
        self._guards = guards or ImageGuards(engine)
        self._ensembles = ensembles or Ensembles(engine)
        self._records = records
        self._blobs = blobs
        self._fields = fields
        self._limits = limits
        self._get = get
        self._safety = safety or SafetyChecker(NO_SAFETY)
        self._images = CandidateImages(engine, records, blobs, limits, self._safety, sealer=sealer)
        self._idempotency = Idempotency(records, get)

    async def rerank(self, source: Generation, params: RerankParams) -> Generation:
        """Re-rank `source` without storing; timings and work are the re-ranking's.

        Raises InvalidRequest, NotReady, ScorerMismatch, Loading, AllFlagged, and EngineFailed if no scorer can judge.
        """
        started = perf_counter()
        embeddings = await self._fields.embeddings(source)
        n = source.spec.n if params.n is None else params.n
        check_range(n, 1, len(source.candidates), "#/n")
        check_ranking(params.ranking, self._limits)
        mode = self._safety.serving(source.spec.safety)
        spec = replace(source.spec, ranking=params.ranking, n=n, safety=mode)
        query, notices = await self._build_query(spec.ranking_prompt, spec.ranking.negatives, spec.ranking)
        encoded = perf_counter()
        pool, unseen = _pool(source, spec, params.include_pruned)
        scores = await asyncio.to_thread(_finite_scores, embeddings, query)
        field = Judgeable(scores, embeddings)
        ranked = FieldRanking(
            self._engine,
            self._ensembles,
            field,
            query,
            spec.ranking_prompt,
            spec.ranking,
            n,
            cascade=source.judged,
        )
        if ranked.has_members:
            field.known = _known_numbers(source, spec, self._ensembles.scorers)
            field.members = await self._fields.members(source)
        placements, checked = await place_unflagged(self._images, source, pool, ranked.place)
        verdict = ranked.verdict
        self._ensembles.require_judge(verdict, spec.ranking, field)
        scores, pool = list(verdict.scores), verdict.pool
        rows = zip(placements.placements, source.candidates, scores, strict=True)
        candidates = [p.apply_to(replace(c, safety=checked.get(c.index, c.safety)), s) for p, c, s in rows]
        ended = perf_counter()
        return replace(
            source,
            spec=spec,
            candidates=tuple(candidates),
            margin=placements.margin,
            margin_error=placements.margin_error,
            low_confidence=placements.low_confidence,
            agreement=verdict.agreement,
            judged=verdict.judged,
            referee=None,
            warnings=(
                *notices,
                *verdict.notices,
                *unrecognised_prompt_notices([scores[i] for i in pool], self._engine.scorer, notices),
                *shortfall_notices(spec, candidates),
                *_veto_notices(source, spec, unseen),
            ),
            timings=Timings(encode_ms=1000 * (encoded - started), total_ms=1000 * (ended - started)),
            work=Work(),
            stopped=None,
        )

    async def rank(
        self, prompt: str, ranking: Ranking, images: AsyncIterable[list[NDArray[np.uint8]]], image_at: ImageAt
    ) -> RankResult:
        """Rank images (H, W, 3) of any sizes by a prompt, one batch in memory at a time.

        `image_at` reads one of them again, for guards. Raises InvalidRequest, Loading, EngineDead, EngineFailed if
        no scorer judged, and what `images` raises.
        """
        check_text(prompt, "#/prompt", self._limits, allow_empty=False)
        check_ranking(ranking, self._limits)
        guards, flags = active_guards(ranking, self._limits), Flags()
        question = prompt if ranking.prompt is None else ranking.prompt
        query, notices = await self._build_query(question, ranking.negatives, ranking)
        embedded, others = list[Embeddings](), self._ensembles.collector(ranking, question)
        async for batch in images:
            if ARTEFACT in guards:  # uploads are of any origin: only blank ones are certain
                numbered = list(enumerate(batch, sum(map(len, embedded))))
                blank = await asyncio.to_thread(inspect, numbered, ArtefactLimits())
                flags |= {index: (flag,) for index, flag in blank.items()}
                del numbered
            embedded.append(await self._engine.embed_images(batch))
            await others.add(batch)
            batch.clear()
        count = sum(map(len, embedded))
        if not 1 <= count <= self._limits.images:
            raise InvalidRequest(
                f"{count} readable images were sent; send 1 to {self._limits.images}", pointer="#/images"
            )
        embeddings, scorer = np.concatenate(embedded), self._engine.scorer
        scores = await asyncio.to_thread(_finite_scores, embeddings, query)
        field, found = others.field(scores, embeddings), Inspected(range(count), flags)
        ranked = FieldRanking(self._engine, self._ensembles, field, query, question, ranking, count)
        placements = await self._guards.place(ranked, found, guards, image_at)
        verdict = ranked.verdict
        self._ensembles.require_judge(verdict, ranking, field)
        return RankResult(
            scorer=scorer.id,
            prompt=prompt,
            ranking=ranking,
            count=count,
            images=tuple(
                _ranked_image(i, verdict.scores[i], placements.placements[i], found.flags.get(i, ()))
                for i in placements.returned
            ),
            margin=placements.margin,
            margin_error=placements.margin_error,
            low_confidence=placements.low_confidence,
            warnings=(
                *notices,
                *verdict.notices,
                *unrecognised_prompt_notices(field.scores, scorer, notices),
                *found.notices,
                *veto_notices(found.flags, ranking),
            ),
            vetoed={i: found.flags[i] for i in sorted(set(range(count)) - set(found.allowed(ranking)))},
            agreement=verdict.agreement,
        )

    async def save(self, make: MakeReranking, once: IdempotencyKey | None = None) -> Generation:
        """Store a re-ranking as a generation whose parent is its source.

        Files are copied, so either can be deleted alone; its candidates are charged. With `once`, a repeated request
        returns the stored generation. Raises NotFound if the files are gone, KeyReused, QuotaExceeded,
        StoreUnavailable, and what `make` raises.
        """
        return await self._idempotency.run(once, partial(self._store, make))

    async def _store(self, make: MakeReranking, key: KeyRecord | None) -> Generation | IdempotencyMatch:
        source, reranked = await make()
        now, spec = self._records.clock(), reranked.spec
        charge = auth.quota_charge(reranked.delivered)
        own = replace(spec, id=new_id(), parent=Parent(ParentKind.RERANK, spec.id))
        enlarged = tuple(notice for notice in source.warnings if notice.code == UPSCALED)
        kept = replace(
            reranked,
            spec=own,
            status=Status.SUCCEEDED,
            created=now,
            started=now,
            finished=now,
            warnings=(*reranked.warnings, *enlarged),
        )
        form = kept.output_format
        try:
            await self._blobs.put(arrays_key(own.id), await self._fields.read_file(spec.id))
            await copy_inputs(self._blobs, spec, own.id)
            for candidate in kept.best:
                picture = await self._images.image(source, candidate.index, form, None)
                await self._blobs.put(image_key(own.id, candidate.index, form), picture.data)
            lines = [
                NewEvent(EventKind.QUEUED, {"n_candidates": own.n_candidates}),
                NewEvent(EventKind.SUCCEEDED, {"status": str(Status.SUCCEEDED)}),
            ]
            entered = await self._records.create(kept, lines, None, key, charge=charge)
            auth.record_usage(charge, entered)
        except BaseException:
            await self._blobs.delete_prefix(blob_prefix(own.id))
            raise
        if not isinstance(entered, IdempotencyMatch):
            return kept
        await self._blobs.delete_prefix(blob_prefix(own.id))
        return entered

    async def lineage(self, generation_id: str) -> Lineage:
        """The generation and its ancestors, the root first. Raises NotFound."""
        chain = [await self._get(generation_id)]
        while (parent := chain[-1].spec.parent) is not None and parent.generation is not None:
            try:
                chain.append(await self._get(parent.generation))
            except NotFound:
                return Lineage(tuple(reversed(chain)), parent.generation)
            if len(chain) == MAX_LINEAGE:
                return Lineage(tuple(reversed(chain)), None)
        return Lineage(tuple(reversed(chain)), None)

    async def _build_query(
        self, prompt: str, negatives: Sequence[Negative], ranking: Ranking
    ) -> tuple[rank_math.Query, tuple[Notice, ...]]:
        texts = (prompt, *(n.text for n in negatives))
        vectors = await self._engine.embed_texts(texts)
        stacked = np.stack([v.vector for v in vectors])
        query = rank_math.build_query(ranking, stacked[0], stacked[1:], [n.weight for n in negatives])
        read = [*zip(texts, vectors, strict=True)]
        notices = [truncation_notice("scorer", t, v.truncation) for t, v in read if v.truncation is not None]
        notices += reading_notices(("scorer", text, each.reading) for text, each in read)
        notices += (*unrecognised(texts, vectors), *contradiction_notices(texts, stacked))
        notices += clip_limit_notices(prompt, texts[1:], judges_positions=ranking.judges_positions)
        return query, tuple(notices)


def _pool(source: Generation, spec: GenerationSpec, include_pruned: bool | None) -> tuple[list[int], list[int]]:
    """Candidates that may be returned, and pruned ones that a veto excludes.

    No guard inspected those.
    """
    if include_pruned is None:
        competed = any(c.rank is not None and c.pruned_at_step is not None for c in source.candidates)
        include_pruned = competed or _compared_with(source.spec) != _compared_with(spec)
    pruned = [c.index for c in source.candidates if include_pruned and c.pruned_at_step is not None]
    unseen = pruned if spec.ranking.veto else []
    competing = (c for c in source.candidates if c.is_finished or c.index in set(pruned) - set(unseen))
    return [c.index for c in competing if not c.is_vetoed(spec.ranking)], unseen


def _veto_notices(source: Generation, spec: GenerationSpec, unseen: Sequence[int]) -> tuple[Notice, ...]:
    """What a veto excludes, and which of its guards did not inspect the images."""
    missing = [name for name in spec.ranking.veto if name not in source.spec.guards]
    detail = "these guards did not inspect the images when they were made, so their veto excludes none"
    absent = (Notice("guards_did_not_run", detail, {"guards": missing}),) if missing else ()
    why = "guards inspect finished images only, so with a veto pruned candidates do not compete: clear `ranking.veto`"
    pruned = (Notice("pruned_not_inspected", why, {"indices": list(unseen)}),) if unseen else ()
    return (*veto_notices({c.index: c.flags for c in source.candidates}, spec.ranking), *absent, *pruned)


def _compared_with(spec: GenerationSpec) -> tuple[object, ...]:
    """What candidates are compared with, without weights."""
    return spec.ranking_prompt, {n.text for n in spec.ranking.negatives}, {r.vector for r in spec.ranking.references}


def _known_numbers(
    source: Generation, spec: GenerationSpec, scorers: Sequence[PanelScorer]
) -> dict[str, dict[int, float]]:
    """Stored numbers of scorers that only score.

    By name and index, if they are of the same text.

    Those of a scorer that reads no text stay.
    """
    same = source.spec.ranking_prompt == spec.ranking_prompt
    names = [
        each.info.id for each in scorers if isinstance(each.info, ScoringInfo) and (same or not each.info.reads_text)
    ]
    return {
        name: {c.index: c.score.members[name] for c in source.candidates if c.score and name in c.score.members}
        for name in names
    }


def _finite_scores(embeddings: Embeddings, query: rank_math.Query) -> list[Score | None]:
    return [None if math.isnan(s.score) else s for s in rank_math.score_images(embeddings, query)]


def _ranked_image(index: int, score: Score | None, placement: Placement, flags: tuple[Flag, ...]) -> RankedImage:
    """A returned image, which has a score and a rank."""
    assert score is not None
    assert placement.rank is not None
    same = (placement.softmax, placement.z_score, placement.duplicate_of)
    return RankedImage(index, placement.rank, score, *same, flags, placement.probability)
