"""The service's use cases over one engine and one pair of stores. Event loop only; every error is of `app.errors`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.domain import Event, EventKind, Failure, Generation, Ranking, Status
from app.engine import ranking as rank_math
from app.engine.client import Engine, EngineStats
from app.engine.run import truncation_notice
from app.errors import Invalid, NotFound, NotReady, StoreUnavailable
from app.service.cutting import Cutter, PruningPolicy
from app.service.drafting import check_ranking, check_text, resolve
from app.service.follow import Follower, folder
from app.service.gallery import Gallery
from app.service.values import Draft, ImageFile, Limits, QueuePlace, RankedImage, RankResult
from app.stores.contract import Blobs, Line, Records
from models.contract import GeneratorInfo, ScorerInfo

log = logging.getLogger(__name__)

POLL_S = 0.25
"""How often a log is looked at when another process writes it."""

PING_S = 2.0
"""How long the database may take to answer before this replica is not ready."""


class Service:
    """See the module. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        engine: Engine,
        records: Records,
        blobs: Blobs,
        limits: Limits,
        *,
        lease_s: float = 60.0,
        pruning: PruningPolicy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._limits = limits
        self._lease_s = lease_s
        self._cut = Cutter(engine, pruning or PruningPolicy())
        self._clock = clock
        self._gallery = Gallery(engine, blobs)
        self._following: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        self._ended: dict[str, int] = {}
        self._regrets = (0, 0.0)

    @property
    def limits(self) -> Limits:
        """What a request may ask for."""
        return self._limits

    def models(self) -> tuple[GeneratorInfo, ScorerInfo]:
        """What is loaded. Raises Loading."""
        return self._engine.generator, self._engine.scorer

    def stats(self) -> EngineStats:
        """The engine's counters."""
        return self._engine.stats()

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return dict(self._ended)

    def regrets(self) -> tuple[int, float]:
        """Generations that ran in shadow, and the sum of the shares of gain that pruning would have lost them."""
        return self._regrets

    async def ready(self) -> str | None:
        """None when requests are welcome, else one word why not: dead, loading, draining, full, store."""
        stats = self._engine.stats()
        for word, holds in (
            ("dead", stats.dead),
            ("loading", not stats.ready),
            ("draining", stats.draining),
            ("full", stats.queued + stats.running >= stats.capacity),
        ):
            if holds:
                return word
        try:
            await asyncio.wait_for(self._records.ping(), PING_S)
        except (StoreUnavailable, TimeoutError):
            return "store"
        return None

    # generations

    async def submit(self, draft: Draft) -> Generation:
        """Check, fill in defaults, admit, record and hand to the engine. Returns it queued.

        Raises Invalid (with a pointer), NotFound (model), Overloaded, Draining, Loading, EngineDead.
        """
        generator, scorer = self.models()
        spec, notices = await asyncio.to_thread(resolve, draft, generator, self._limits, self._cut)
        generation = Generation(
            spec,
            Status.QUEUED,
            self._clock(),
            generator.id,
            scorer.id,
            draft.output_format,
            warnings=notices,
            scorer_revision=scorer.revision,
        )
        follower = Follower(
            generation,
            self._records,
            self._blobs,
            lease_s=self._lease_s,
            clock=self._clock,
            give_up=self._engine.cancel,
        )
        self._engine.submit(spec, follower.sink)
        try:
            line = Line(EventKind.QUEUED, {"n_candidates": spec.n_candidates})
            await self._records.create(generation, [line], lease_until=self._clock() + self._lease_s)
        except BaseException:
            self._engine.cancel(spec.id)
            raise
        task = asyncio.create_task(follower.run(), name=f"follow {spec.id}")
        self._following[spec.id] = follower, task
        task.add_done_callback(partial(self._followed, spec.id))
        return generation

    async def get(self, generation_id: str) -> Generation:
        """The generation as it stands. Raises NotFound."""
        generation = await self._records.get(generation_id)
        if generation is None:
            raise NotFound("there is no such generation, or it was forgotten")
        return generation

    def place(self, generation: Generation) -> QueuePlace:
        """Candidates that came before it and are still here, and the measured guess of the seconds to its result."""
        seconds = self._engine.stats().seconds_per_candidate
        ahead = 0
        for follower, _ in self._following.values():
            if follower.generation.id == generation.id:
                break
            ahead += follower.generation.spec.n_candidates
        eta = (ahead + generation.spec.n_candidates) * seconds if seconds else None
        return QueuePlace(ahead, eta)

    async def wait(self, generation_id: str) -> Generation:
        """The generation once it is final. Raises NotFound when it is forgotten meanwhile, StoreUnavailable if lost."""
        followed = self._following.get(generation_id)
        if followed is None:
            async for _ in self.watch(generation_id):
                pass
            return await self.get(generation_id)
        follower, task = followed
        await asyncio.wait([task])
        task.result()
        return follower.generation

    async def watch(self, generation_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The log after line `after`, then new lines as they come, until the closing one. Raises NotFound.

        Empty when `after` is the closing line or one that never was.
        """
        ended = (await self.get(generation_id)).status.final
        while True:
            followed = self._following.get(generation_id)
            pulse = followed[0].pulse if followed is not None else None
            events = await self._records.events(generation_id, after)
            for event in events:
                yield event
                after = event.seq
                if event.kind.final:
                    return
            if events:
                continue
            if ended:
                return
            if pulse is not None:
                await pulse.wait()
            else:
                await asyncio.sleep(POLL_S)
            ended = (await self.get(generation_id)).status.final

    async def image(
        self, generation_id: str, index: int, output_format: str, size: tuple[int, int] | None = None
    ) -> ImageFile:
        """A candidate's image; `size` (width, height) never larger than it. Raises NotFound, NotReady, Invalid."""
        generation = await self.get(generation_id)
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}")
        return await self._gallery.image(generation, index, output_format, size)

    async def cancel(self, generation_id: str) -> Generation:
        """Stop it if it runs here; the record stays. Raises NotFound."""
        self._engine.cancel(generation_id)
        followed = self._following.get(generation_id)
        if followed is not None:
            await asyncio.wait([followed[1]])
        return await self.get(generation_id)

    async def forget(self, generation_id: str) -> None:
        """Cancel if needed, then delete record, log and files. Raises NotFound."""
        await self.cancel(generation_id)
        await self._erase(generation_id)

    # images that were not made here

    async def rank(self, prompt: str, ranking: Ranking, images: Sequence[NDArray[np.uint8]]) -> RankResult:
        """Compare images (H, W, 3) of any sizes with a prompt; no sampling. Raises Invalid, Loading, EngineDead."""
        scorer = self._engine.scorer
        check_text(prompt, "#/prompt", self._limits, empty=False)
        check_ranking(ranking, self._limits)
        if not 1 <= len(images) <= self._limits.images:
            raise Invalid(f"between 1 and {self._limits.images} images are taken", pointer="#/images")
        texts = (prompt, *(n.text for n in ranking.negatives))
        vectors = await self._engine.embed_texts(texts)
        stacked = np.stack([v.vector for v in vectors])
        query = rank_math.query(ranking, stacked[0], stacked[1:], [n.weight for n in ranking.negatives])
        embeddings = await self._engine.embed_images(images)
        scores = rank_math.score(embeddings, query)
        values = [s.score for s in scores]
        shares = rank_math.softmax(values, scorer.logit_scale)
        chosen = rank_math.select(
            values, embeddings, len(images), diversity=ranking.diversity, min_score=ranking.min_score
        )
        return RankResult(
            scorer=scorer.id,
            prompt=prompt,
            ranking=ranking,
            images=tuple(
                RankedImage(i, place + 1, scores[i], shares[i], rank_math.z_score(scores[i].text, scorer))
                for place, i in enumerate(chosen)
            ),
            margin=rank_math.margin(values),
            low_confidence=rank_math.low_confidence(scores[rank_math.order(values)[0]], values, scorer),
            warnings=tuple(
                truncation_notice("scorer", text, vector.truncation)
                for text, vector in zip(texts, vectors, strict=True)
                if vector.truncation is not None
            ),
        )

    # upkeep

    async def sweep(self, retention_s: float | None) -> int:
        """Forget generations older than `retention_s`, fail those whose process is gone; how many were touched."""
        now = self._clock()
        lapsed = await self._records.lapsed(now)
        for generation in lapsed:
            failure = Failure("interrupted", "the process that worked on this generation ended")
            failed = replace(generation, status=Status.FAILED, finished=now, failure=failure)
            data = {"status": "failed", "failure": {"code": failure.code, "detail": failure.detail}}
            await self._records.save(failed, [Line(EventKind.FAILED, data)], lease_until=None)
        expired = await self._records.expired(now - retention_s) if retention_s is not None else []
        for generation_id in expired:
            await self._erase(generation_id)
        return len(lapsed) + len(expired)

    async def close(self) -> None:
        """Wait for what is being written down; the engine must be closed first."""
        tasks = [task for _, task in self._following.values()]
        if tasks:
            await asyncio.wait(tasks)

    async def _erase(self, generation_id: str) -> None:
        await self._records.delete(generation_id)
        await self._blobs.delete_prefix(folder(generation_id))

    def _followed(self, generation_id: str, task: asyncio.Task[None]) -> None:
        """A generation is no longer followed: its result is stored, or writing it down failed for good."""
        follower, _ = self._following.pop(generation_id)
        status = str(follower.generation.status)
        self._ended[status] = self._ended.get(status, 0) + 1
        if follower.regret is not None:
            count, total = self._regrets
            self._regrets = count + 1, total + follower.regret
        if not task.cancelled() and task.exception() is not None:
            log.error("following a generation failed", exc_info=task.exception())
        follower.beat()
