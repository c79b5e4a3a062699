"""What this process works on: generations it has claimed, at their submit or from the queue that replicas share.

A replica takes from the queue while its device has nothing waiting, so that work goes where there is room. Where all
are busy, the first in the queue and what callers bring come in turn. What a replica cannot end is handed back; what it
dies over is claimed by another when the lease has lapsed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from app.domain import Generation, GenerationSpec, Status
from app.engine.protocols import Engine, Sink
from app.errors import (
    Draining,
    EngineDead,
    FrontrunnerError,
    Interrupted,
    NotFound,
    OtherScorer,
    Overloaded,
    StoreUnavailable,
)
from app.service.candidates.images import made_by
from app.service.generations.event_log import QUEUE, News, heard
from app.service.generations.recorder import Follower
from app.stores.protocols import Blobs, Claim, Claimed, Records, Waiting

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the queue is looked at when nobody tells of it."""

OVERDUE_S = 2.0
"""How long a busy replica leaves the first in the queue to idle ones."""

MAX_CLAIMS = 5
"""Replicas that may hold a generation and be lost before they begin with it."""

GIVE_UP_S = 5.0
"""How long an answer waits for the device to drop what was cancelled."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How work is shared: a claim lapses after `lease_s`; `attempts` times a generation may be begun.

    From the second time on it runs alone: what killed a replica in company is then told from who was beside it.
    """

    lease_s: float = 60.0
    attempts: int = 2


class Works:
    """The followed generations of one process, oldest first."""

    def __init__(
        self, engine: Engine, records: Records, blobs: Blobs, news: News, terms: Terms, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._records = records
        self._blobs = blobs
        self._news = news
        self._terms = terms
        self._clock = clock
        self._following: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        self._ended: dict[str, int] = {}
        self._regrets = (0, 0.0)
        self._first: Waiting | None = None
        self._seen = 0.0
        self._overtaken = False
        self._behind = False

    def __iter__(self) -> Iterator[Generation]:
        return (follower.generation for follower, _ in self._following.values())

    def outcomes(self) -> Mapping[str, int]:
        """Generations this process ended, by status."""
        return dict(self._ended)

    def count(self, generation_id: str, status: Status) -> None:
        """Note that this process has ended it."""
        log.info("generation ended", extra={"generation": generation_id, "status": str(status)})
        self._ended[str(status)] = self._ended.get(str(status), 0) + 1

    def regrets(self) -> tuple[int, float]:
        """Generations that ran in shadow, and the sum of the shares of gain that pruning would have lost them."""
        return self._regrets

    def new_claim(self) -> Claim:
        """A claim that nobody has yet."""
        return Claim(secrets.token_hex(16), self._terms.lease_s)

    def follower(self, generation: Generation, claim: Claim, *, durable: bool, pictured: bool = True) -> Follower:
        """Who will write down the generation, once it is followed."""
        return Follower(
            generation,
            claim,
            self._records,
            self._blobs,
            clock=self._clock,
            give_up=self._engine.cancel,
            told=self._news.tell,
            durable=durable,
            pictured=pictured,
        )

    def check(self, n_candidates: int) -> None:
        """Refuse what a caller brings without room for it. Raises as `Engine.check`, or when the queue comes first."""
        self._give_way()
        self._engine.check(n_candidates)

    def submit(self, spec: GenerationSpec, sink: Sink) -> None:
        """Hand the engine what a caller brings. Raises as `check`."""
        self._give_way()
        self._engine.submit(spec, sink)
        self._overtaken = True

    def _give_way(self) -> None:
        if self._behind:
            stats = self._engine.stats()
            wait = stats.held * stats.seconds_per_candidate
            raise Overloaded("what was accepted before comes first", retry_after_s=wait or 1.0)

    def follow(self, follower: Follower) -> None:
        """Write down what becomes of a generation that the engine has taken and the store knows."""
        name = follower.generation.id
        task = asyncio.create_task(follower.run(), name=f"follow {name}")
        self._following[name] = follower, task
        task.add_done_callback(partial(self._followed, name))

    def here(self, generation_id: str) -> Follower | None:
        """Who writes down this generation, while it is claimed by this process."""
        follower, _ = self._following.get(generation_id, (None, None))
        return None if follower is None or follower.lost else follower

    async def ended(self, generation_id: str, timeout_s: float | None = None) -> Generation | None:
        """What it ended as, when it ends here. Raises StoreUnavailable when it is not stored, see `check_stored`."""
        if generation_id not in self._following:
            return None
        follower, task = self._following[generation_id]
        stuck = asyncio.create_task(follower.stuck.wait())
        try:
            await asyncio.wait([task, stuck], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stuck.cancel()
        if not task.done():
            self.check_stored(generation_id)
        if follower.lost or not task.done():
            return None
        task.result()
        return follower.generation

    def check_stored(self, generation_id: str) -> None:
        """Raises StoreUnavailable while this process fails to store the result; it retries in the background."""
        follower = self.here(generation_id)
        if follower is not None and follower.stuck.is_set():
            raise StoreUnavailable("the store does not take the result yet; storing it is retried for some minutes")

    async def cancel(self, generation_id: str) -> Generation | None:
        """Stop it if it is claimed here; what it ended as."""
        if self.here(generation_id) is None:
            return None
        self._engine.cancel(generation_id)
        with suppress(StoreUnavailable):
            return await self.ended(generation_id, GIVE_UP_S)
        return None

    async def run(self) -> None:
        """Claim what is in the queue while there is room for it, until cancelled."""
        while True:
            pulse = self._news.pulse(QUEUE)
            try:
                while await self._claim():
                    pass
            except StoreUnavailable:
                log.debug("the queue cannot be seen: the store is out of reach")
            await heard(pulse, LOOK_S * random.uniform(0.8, 1.2))

    async def hand_back(self) -> None:
        """Let other processes take at once what has not ended here."""
        await asyncio.gather(*(follower.hand_back() for follower, _ in self._following.values()))

    async def close(self, patience_s: float) -> None:
        """Wait for what is being written down; what is not after `patience_s` is left to others."""
        tasks = [task for _, task in self._following.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience_s)
            for task in late:
                task.cancel()

    async def _claim(self) -> bool:
        """Claim one; False when there is none, or no room, or when it is left to others."""
        stats = self._engine.stats()
        if not stats.ready or stats.draining:
            return False
        models, most = (self._engine.generator.id, self._engine.scorer.id), stats.capacity
        first = await self._records.first(*models, most, self._terms.lease_s)
        if first is None or first != self._first:
            self._first, self._seen, self._overtaken = first, time.monotonic(), False
        overdue = self._overtaken and time.monotonic() - self._seen > OVERDUE_S
        stats = self._engine.stats()
        room = most - stats.held
        self._behind = overdue and first is not None and first.candidates > room
        if first is None or first.candidates > room or (stats.queued and not overdue):
            return False
        claim = self.new_claim()
        found = await self._records.claim(*models, room, claim, most=most)
        if found is None:
            return False
        generation = found.generation
        if generation.id in self._following:
            return await self._reclaim(generation, claim)
        revisions = self._engine.generator.revision, self._engine.scorer.revision
        mine = replace(generation, model_revision=revisions[0], scorer_revision=revisions[1])
        follower = self.follower(mine, claim, durable=True)
        hopeless = self._hopeless(found)
        if hopeless is not None:
            if await follower.fail(hopeless):
                self.count(generation.id, Status.FAILED)
            return True
        try:
            self._engine.submit(generation.spec, follower.sink, alone=generation.attempts > 0)
        except (Overloaded, Draining, EngineDead):
            await self._records.release(generation, claim)
            return False
        self.follow(follower)
        return True

    def _hopeless(self, found: Claimed) -> FrontrunnerError | None:
        """Why a claimed generation cannot be made, if so.

        What was accepted under other weights of the scorer is ranked by those of here, unless it refers to vectors.
        What begins as a picture needs the weights that its latents were encoded by.
        """
        generation, ranking = found.generation, found.generation.spec.ranking
        if generation.attempts >= self._terms.attempts or found.claims - generation.attempts > MAX_CLAIMS:
            return Interrupted("every process that worked on this generation has died")
        elsewhere = generation.scorer_revision not in {"", self._engine.scorer.revision}
        if elsewhere and (ranking.references or ranking.taste):
            return OtherScorer("the weights that it was to be ranked by are not here")
        if generation.spec.start is not None and not made_by(self._engine.generator, generation):
            return NotFound("the weights that its first picture was encoded by are not here")
        return None

    async def _reclaim(self, generation: Generation, claim: Claim) -> bool:
        """This process's own claim had lapsed, for instance while the store was out of reach: go on with it."""
        follower, _ = self._following[generation.id]
        if follower.adopt(claim):
            return True
        await self._records.release(generation, claim)
        return False

    def _followed(self, generation_id: str, task: asyncio.Task[None]) -> None:
        """A generation is no longer followed: it is stored, another process's, or writing it down failed for good."""
        follower, _ = self._following.pop(generation_id)
        if task.cancelled() or follower.lost:
            status = None
        elif task.exception() is not None:
            log.error("following a generation failed", exc_info=task.exception())
            status = None
        else:
            status = follower.generation.status
        if status is not None:
            self.count(generation_id, status)
            if follower.regret is not None:
                count, total = self._regrets
                self._regrets = count + 1, total + follower.regret
        self._news.tell(generation_id)
        self._news.tell(QUEUE)
