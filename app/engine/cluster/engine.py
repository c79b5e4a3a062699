"""`ClusterEngine`: the `Engine` over several workers.

Owns admission, the workers' starts, and the generations. `race` follows one of them, `dispatcher` shares the workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.base.drainable import Drainable, stopped
from app.engine.base.known_model import KnownModel
from app.engine.cluster.crew import Crew
from app.engine.cluster.fleet import Fleet
from app.engine.cluster.race import Race
from app.engine.cluster.replicas.fleet import JoiningFleet, Replicas
from app.engine.cluster.workers import Worker, WorkerInfo, WorkerLeft, WorkerLost
from app.engine.config import EngineConfig
from app.engine.core import SMOOTHING
from app.engine.cost_model import CostModel
from app.engine.members.panel import keeps_field
from app.engine.protocols import Cancelled, EngineStats, Failed, Outcome, Succeeded, Update, UpdateSink
from app.engine.ranking.probability import known_match
from app.errors import Draining, EngineDead, EngineFailed, FrontrunnerError, Interrupted, Loading, Overloaded
from models.protocols import Embeddings, Images, MatchCalibration, TextEmbedding
from models.protocols.image_inputs import ImageInputs
from models.protocols.narrow import CallCounts

log = logging.getLogger(__name__)

NO_WORKER = "no worker is ready: retry after the interval in `Retry-After`"

DIED = "the engine died during this request: retry it"


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A generation that was admitted and has not ended."""

    race: Race
    task: asyncio.Task[Outcome]


class ClusterEngine(KnownModel, Drainable):
    """The `Engine` over workers that hold the same models.

    Use it on the loop of `start`. It is ready once all workers have loaded. A worker that is lost later is started
    again, while the others continue. `on_death` is called once with the reason: when a worker cannot load at first, or
    when all are given up.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        config: EngineConfig,
        on_death: Callable[[BaseException], None],
        *,
        max_attempts: int = 2,
        link: Replicas | None = None,
    ) -> None:
        """`link` leads to workers that join by themselves, in place of `workers`."""
        if bool(workers) is (link is not None):
            raise ValueError("a cluster needs at least one worker, or a link to them")
        super().__init__()
        self._config = config
        self._on_death = on_death
        self._fleet: Crew = (
            JoiningFleet(link, max_attempts, self._give_up, self._die)
            if link is not None
            else Fleet(workers, max_attempts, self._die)
        )
        self._dispatcher = self._fleet.dispatcher
        self._held: dict[str, _Held] = {}
        self._given_up: dict[str, FrontrunnerError] = {}
        self._death_reason: BaseException | None = None
        self._closed = False
        self._pace = 0.0

    def start(self) -> None:
        """Start loading the models; returns immediately."""
        self._fleet.start()

    def _facts(self) -> WorkerInfo:
        return self._loaded()

    def _match(self) -> MatchCalibration | None:
        return known_match(self.calibration, self.generator, self.scorer)

    @property
    def costs(self) -> CostModel:
        """See `Engine`; those of the fastest worker."""
        self._loaded()
        return self._fleet.costs

    # generations

    def check_capacity(self, n_candidates: int) -> None:
        """See `Engine`."""
        self._loaded()
        if self._draining:
            raise Draining("this replica is shutting down: retry after the interval in `Retry-After`", retry_after_s=1)
        if not self._fleet.usable:
            raise Loading(NO_WORKER, retry_after_s=2)
        held, capacity = self._held_candidates, self._config.capacity
        if held + n_candidates > capacity:
            raise Overloaded(
                f"server busy: {held} candidates are held, and {n_candidates} more exceed the limit of {capacity};"
                " retry after the interval in `Retry-After`",
                retry_after_s=held * self._seconds_per_candidate or 1.0,
            )

    def submit(
        self,
        spec: GenerationSpec,
        sink: UpdateSink,
        *,
        exclusive: bool = False,
        inputs: ImageInputs | None = None,
    ) -> None:
        """See `Engine`."""
        self.check_capacity(spec.n_candidates)
        info = self._loaded()
        judged = any(each.role == "referee" and not each.embeds for each in info.panel)
        area = spec.width * spec.height / (info.generator.width * info.generator.height)
        race = Race(
            spec,
            sink,
            self._dispatcher,
            exclusive=exclusive,
            inputs=inputs,
            keeps_field=keeps_field(spec, info.scorer.id, judged),
            area=area,
        )
        self._idle.clear()
        task = asyncio.create_task(race.follow(lambda: self.scorer, self._match))
        task.add_done_callback(partial(self._end, race, sink))
        self._held[spec.id] = _Held(race, task)

    def cancel(self, generation_id: str) -> None:
        """See `Engine`."""
        if generation_id in self._held:
            self._held[generation_id].task.cancel()

    def _end(self, race: Race, sink: UpdateSink, task: asyncio.Task[Outcome]) -> None:
        """Deliver the last update of a generation."""
        last: Update
        given_up = self._given_up.pop(race.run.spec.id, None)
        if task.cancelled() and given_up is not None:
            last = Failed(given_up)
        elif task.cancelled():
            last = Failed(EngineDead(DIED)) if self._death_reason is not None else Cancelled()
        elif (error := task.exception()) is None:
            last = Succeeded(task.result())
            self._fleet.refresh_costs()
            self._update_pace(race)
        elif isinstance(error, FrontrunnerError):
            last = Failed(error)
        else:
            log.error("a generation failed", exc_info=error)
            last = Failed(EngineFailed(f"the generation failed ({type(error).__name__})"))
        for slot in self._dispatcher.alive:
            slot.worker.forget(race.run.spec.id)
        del self._held[race.run.spec.id]
        self._set_idle()
        sink([last])

    def _update_pace(self, race: Race) -> None:
        """Update the mean device seconds per candidate, scaled to the default steps."""
        run, info = race.run, self.generator
        if run.spec.steps_made == 0:
            return
        usual = info.steps * info.calls_per_step(info.sampler)
        steered = self.costs.steering_factor(race.calls_made, len(run.spec.steered_steps))
        pace = run.device_seconds / len(run.rows) * usual / race.calls_made / steered
        self._pace = pace if not self._pace else self._pace + SMOOTHING * (pace - self._pace)

    # one-off calls

    async def embed_texts(self, texts: Sequence[str], scorer: str | None = None) -> list[TextEmbedding]:
        """See `Engine`."""
        return await self._call("embed_texts", texts, scorer)  # type: ignore[no-any-return]

    async def embed_images(self, images: Sequence[NDArray[np.uint8]], scorer: str | None = None) -> Embeddings:
        """See `Engine`."""
        return await self._call("embed_images", images, scorer)  # type: ignore[no-any-return]

    async def score_images(self, images: Sequence[NDArray[np.uint8]], text: str, scorer: str) -> NDArray[np.float32]:
        """See `Engine`."""
        return await self._call("score_images", images, text, scorer)  # type: ignore[no-any-return]

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """See `Engine`."""
        return await self._call("embed_patches", image)  # type: ignore[no-any-return]

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """See `Engine`."""
        return await self._call("decode", latents)  # type: ignore[no-any-return]

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """See `Engine`."""
        return await self._call("encode_images", images)  # type: ignore[no-any-return]

    async def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """See `Engine`."""
        return await self._call("upscale", image, prompt, seed)  # type: ignore[no-any-return]

    async def prepare(self, spec: GenerationSpec) -> None:
        """See `Engine`."""
        if spec.loras or spec.steering is not None:
            await self._call("prepare", spec)

    async def _call(self, name: str, *args: Any) -> Any:
        """The result of a call on the least used worker; of another one if it is lost."""
        self._loaded()
        if self._closed:
            raise stopped()
        losses = 0
        while losses < 2:
            await self._fleet.wait_usable()
            alive = self._dispatcher.alive
            if not alive:
                raise Loading(NO_WORKER, retry_after_s=2)
            slot = min(alive, key=lambda s: (s.suspect, s.calls + s.rows, s.sent))
            slot.calls += 1
            try:
                return await slot.worker.call(name, *args)
            except WorkerLost as error:
                losses += not isinstance(error, WorkerLeft)
                self._fleet.lose(slot, error)
            finally:
                slot.calls -= 1
        raise Interrupted("every worker that ran this call crashed: change the request")

    # the service's end

    def stats(self) -> EngineStats:
        """See `Engine`; counts and device seconds are sums over the workers."""
        parts = [slot.worker.stats() for slot in self._dispatcher.slots]
        stages = Counter[str]()
        for part in parts:
            stages.update(part.stage_seconds)
        now = EngineStats(
            ready=self._fleet.info is not None and self._death_reason is None and self._fleet.usable,
            dead=self._death_reason is not None,
            draining=self._draining,
            part=self._fleet.part,
            held=self._held_candidates,
            queued=sum(h.race.run.spec.n_candidates for h in self._held.values() if not h.race.started),
            running=sum(part.running for part in parts),
            capacity=self._config.capacity,
            rows_stepped=sum(part.rows_stepped for part in parts),
            denoiser_calls=sum(part.denoiser_calls for part in parts),
            stage_seconds=dict(stages),
            remote_calls=sum((part.remote_calls for part in parts), CallCounts()),
            seconds_per_candidate=self._seconds_per_candidate,
            steering_refusal=next((p.steering_refusal for p in parts if p.ready), None),
            weight_bytes=sum(part.weight_bytes for part in parts),
            workers=len(parts) + len(self._fleet.refused),
            workers_ready=len(self._dispatcher.alive),
        )
        return self._fleet.past.added(now)

    async def close(self, drain_s: float) -> None:
        """See `Engine`."""
        if not await self.wait_drained(drain_s):
            ending = [held.task for held in self._held.values()]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
        self._closed = True
        await self._fleet.close()

    def _give_up(self, error: FrontrunnerError) -> None:
        """Fail the generations that are held; the next ones may run."""
        log.error("running generations are given up: %s", error)
        for name, held in self._held.items():
            self._given_up[name] = error
            held.task.cancel()

    def _die(self, reason: BaseException) -> None:
        """Fail all waiters, then call `on_death`."""
        self._death_reason = reason
        log.error("the engine died", exc_info=reason)
        for held in list(self._held.values()):
            held.task.cancel()
        self._on_death(reason)

    # helpers

    @property
    def _held_candidates(self) -> int:
        return sum(held.race.run.spec.n_candidates for held in self._held.values())

    @property
    def _seconds_per_candidate(self) -> float:
        return self._pace / max(1, len(self._dispatcher.alive))

    def _loaded(self) -> WorkerInfo:
        if self._death_reason is not None:
            raise EngineDead(
                "the engine has died and the process is ending: retry on another replica or after a restart"
            )
        if self._fleet.info is None:
            raise Loading(f"the models are not ready yet: {self._fleet.part}", retry_after_s=2)
        return self._fleet.info

    @property
    def _has_work(self) -> bool:
        return bool(self._held)
