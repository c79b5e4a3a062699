"""Runs an `EngineCore` in a thread and connects it to the event loop.

Owns the thread, the inbox, admission, and the handling of a dead thread. The two sides share two channels only:
messages enter through the inbox, updates leave through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from time import perf_counter
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.base.drainable import Drainable, Held, stopped
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.engine.members import calls
from app.engine.members.loading import MemberLoads, named_members
from app.engine.members.panel import find_embedder, find_judge, panel_of
from app.engine.protocols import Cancelled, EngineStats, Failed, PanelScorer, Stepped, Succeeded, Update, UpdateSink
from app.engine.steering.calls import prepare, refusal
from app.engine.warmup import Progress
from app.errors import (
    Draining,
    EngineDead,
    FrontrunnerError,
    Loading,
    Overloaded,
)
from models.protocols import (
    Calibration,
    Embedder,
    Embeddings,
    GeneratorInfo,
    Images,
    Models,
    ScorerInfo,
    StepwiseGenerator,
    TextEmbedding,
    to_host,
)
from models.protocols.image_inputs import ImageInputs
from models.protocols.narrow import CallCounts
from models.protocols.upscaling import UpscalerInfo

log = logging.getLogger(__name__)

T = TypeVar("T")
CoreMessage: TypeAlias = Callable[[EngineCore], None]
ModelLoader: TypeAlias = Callable[[], Models]

FINAL_CALL_TIMEOUT_S = 30.0
"""Seconds that a closing engine waits for the current device call."""

STEPS_TOGETHER_S = 0.02
"""Seconds after an update within which a step is reported with the next call.

Steps of a real device take longer: each is reported at once. A quick step before a long call waits for that call.
"""


class LocalEngine(Drainable):
    """The `Engine` of one process and one device; use it on the loop of `start`.

    `load` runs on the engine's thread and may report its parts to `progress`. `on_death` is called once on the loop
    with the reason, after all waiters have failed. The process should then end, because only a new process can recover.
    `turns` is shared by the engines of one device, which take turns by the tick.
    """

    core_type: ClassVar[type[EngineCore]] = EngineCore

    def __init__(
        self,
        load: ModelLoader,
        config: EngineConfig,
        on_death: Callable[[BaseException], None],
        progress: Progress | None = None,
        turns: AbstractContextManager[None] | None = None,
    ) -> None:
        super().__init__()
        self._load = load
        self._turns = turns or contextlib.nullcontext()
        self._progress = progress or Progress()
        self._config = config
        self._on_death = on_death
        self._inbox: queue.SimpleQueue[CoreMessage | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_thread, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core: EngineCore | None = None
        self._models: Models | None = None
        self._held: dict[str, Held] = {}
        self._loads = MemberLoads()
        self._pending: set[asyncio.Future[object]] = set()
        self._death_reason: BaseException | None = None
        self._closed = False

    def start(self) -> None:
        """Start loading the models; returns immediately."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def generator(self) -> GeneratorInfo:
        """See `Engine`."""
        return self._loaded().generator.info

    @property
    def scorer(self) -> ScorerInfo:
        """See `Engine`."""
        return self._loaded().scorer.info

    @property
    def calibration(self) -> Calibration | None:
        """See `Engine`."""
        return self._loaded().calibration

    @property
    def costs(self) -> CostModel:
        """See `Engine`."""
        self._loaded()
        assert self._core is not None
        return self._core.costs

    def check_capacity(self, n_candidates: int) -> None:
        """See `Engine`."""
        self._check_accepting()
        held, capacity = sum(h.candidates for h in self._held.values()), self._config.capacity
        if held + n_candidates > capacity:
            wait = held * self.stats().seconds_per_candidate
            raise Overloaded(
                f"server busy: {held} candidates are held, and {n_candidates} more exceed the limit of {capacity};"
                " retry after the interval in `Retry-After`",
                retry_after_s=wait or 1.0,
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
        self._held[spec.id] = Held(sink, spec.n_candidates)
        self._idle.clear()
        submitted = perf_counter()
        self._enter(spec.id, spec, lambda core: core.submit(spec, submitted, exclusive=exclusive, inputs=inputs))

    def cancel(self, generation_id: str) -> None:
        """See `Engine`."""
        if generation_id in self._held and self._loads.drop(generation_id):
            self._call_on_loop(self._deliver, [(generation_id, Cancelled())])
        elif generation_id in self._held:
            self._inbox.put(lambda core: core.cancel(generation_id))

    @property
    def panel(self) -> tuple[PanelScorer, ...]:
        """See `Engine`."""
        return panel_of(self._loaded())

    async def embed_texts(self, texts: Sequence[str], scorer: str | None = None) -> list[TextEmbedding]:
        """See `Engine`."""
        model = await self._embedder(scorer)
        return await self._call_device(lambda *_: [model.embed_texts([t])[0] for t in texts])

    async def embed_images(self, images: Sequence[NDArray[np.uint8]], scorer: str | None = None) -> Embeddings:
        """See `Engine`."""
        return await calls.embed_images(self._call_device, await self._embedder(scorer), images)

    async def score_images(self, images: Sequence[NDArray[np.uint8]], text: str, scorer: str) -> NDArray[np.float32]:
        """See `Engine`."""
        model = find_judge(self._loaded(), scorer)
        return await calls.score_images(self._call_device, model, images, text)

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """See `Engine`."""
        return await self._call_device(lambda _, scorer: scorer.embed_patches(image))

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """See `Engine`."""
        return await self._call_device(lambda generator, _: to_host(generator.decode(generator.load(latents))))

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """See `Engine`."""
        return await self._call_device(lambda generator, _: generator.encode_image(images))

    @property
    def upscaler(self) -> UpscalerInfo | None:
        """See `Engine`."""
        upscaler = self._loaded().upscaler
        return upscaler.info if upscaler is not None else None

    async def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """See `Engine`."""
        upscaler = self._loaded().upscaler
        assert upscaler is not None
        return await self._call_device(lambda *_: upscaler.upscale(image, prompt, seed))

    async def prepare(self, spec: GenerationSpec) -> None:
        """See `Engine`."""
        steering = self._loaded().steering
        if spec.loras or spec.steering is not None:
            await self._call_device(lambda generator, _: prepare(generator, steering, spec))

    def stats(self) -> EngineStats:
        """See `Engine`."""
        core = self._core
        held = sum(h.candidates for h in self._held.values())
        started = core.started if core is not None else ()
        return EngineStats(
            ready=core is not None and self._death_reason is None,
            dead=self._death_reason is not None,
            draining=self._draining,
            part=self._progress.part,
            held=held,
            queued=sum(h.candidates for name, h in self._held.items() if name not in started),
            running=core.live if core is not None else 0,
            capacity=self._config.capacity,
            rows_stepped=core.rows_stepped if core is not None else 0,
            denoiser_calls=core.denoiser_calls if core is not None else 0,
            stage_seconds=dict(core.stage_seconds) if core is not None else {},
            seconds_per_candidate=core.seconds_per_candidate if core is not None else 0.0,
            steering_refusal=refusal(self._models.steering) if self._models is not None else None,
            weight_bytes=self._models.weight_bytes if self._models is not None else 0,
            workers_ready=int(core is not None and self._death_reason is None),
            remote_calls=core.remote_calls() if core is not None else CallCounts(),
        )

    async def close(self, drain_s: float) -> None:
        """See `Engine`."""
        drained = await self.wait_drained(drain_s)
        self._end_waiting(stopped())
        if not drained:
            for generation_id in list(self._held):
                self.cancel(generation_id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), FINAL_CALL_TIMEOUT_S)
        self._closed = True
        self._inbox.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, FINAL_CALL_TIMEOUT_S)
        self._fail_pending(stopped())

    # the event loop's side

    def _loaded(self) -> Models:
        if self._death_reason is not None:
            raise EngineDead(
                "the engine has died and the process is ending: retry on another replica or after a restart"
            )
        if self._models is None:
            raise Loading(f"the models are not ready yet: {self._progress.part}", retry_after_s=2)
        return self._models

    async def _embedder(self, name: str | None) -> Embedder:
        """A scorer that embeds, once its weights are read."""
        model = find_embedder(self._loaded(), name)
        if not await self._loads.load([model]):
            self._loaded()
            raise stopped()
        return model

    def _enter(self, work: str, spec: GenerationSpec, message: CoreMessage) -> None:
        """Give the core work once the members that it names are loaded."""
        self._loads.begin(work, named_members(self._loaded(), spec), partial(self._inbox.put, message))

    def _end_waiting(self, error: FrontrunnerError) -> None:
        """Fail what waits for the weights of members."""
        for work in self._loads.close():
            self._deliver([(work, Failed(error))])

    def _check_accepting(self) -> None:
        self._loaded()
        if self._draining:
            raise Draining("this replica is shutting down: retry after the interval in `Retry-After`", retry_after_s=1)

    async def _call_device(self, call: Callable[[StepwiseGenerator, Embedder], T]) -> T:
        """Make a one-off device call; return its result."""
        self._loaded()
        if self._closed:
            raise stopped()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def settle(result: T | None, error: FrontrunnerError | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        work = calls.one_off(call, partial(self._call_on_loop, settle))
        self._inbox.put(lambda core: core.add_call(work))
        return await future  # type: ignore[return-value]

    def _deliver(self, updates: list[tuple[str, Update]]) -> None:
        batches = defaultdict[str, list[Update]](list)
        for generation_id, update in updates:
            batches[generation_id].append(update)
        for generation_id, batch in batches.items():
            held = self._held.get(generation_id)
            if held is None:
                continue
            if isinstance(batch[-1], Succeeded | Failed | Cancelled):
                self._remove_held(generation_id)
            held.sink(batch)

    def _remove_held(self, generation_id: str) -> None:
        del self._held[generation_id]
        self._set_idle()

    @property
    def _has_work(self) -> bool:
        return bool(self._held)

    def _fail_all(self, reason: BaseException) -> None:
        """Fail all waiters, then call `on_death`."""
        self._death_reason = reason
        error = EngineDead("the engine died during this request: retry it")
        self._end_waiting(error)
        for generation_id, held in list(self._held.items()):
            self._remove_held(generation_id)
            held.sink([Failed(error)])
        self._fail_pending(error)
        self._on_death(reason)

    def _fail_pending(self, error: FrontrunnerError) -> None:
        for future in list(self._pending):
            if not future.done():
                future.set_exception(error)

    # the engine thread's side

    def _call_on_loop(self, callback: Callable[..., None], *args: object) -> None:
        """Call back on the event loop. Ignores a closed loop."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("the event loop has closed")

    def _run_thread(self) -> None:
        try:
            self._progress("loading the models")
            models = self._load()
            core = self.core_type(models, self._config, wake=partial(self._inbox.put, EngineCore.resume))
            with contextlib.closing(core):
                with self._turns:
                    core.measure(self._progress)
                self._core, self._models = core, models
                self._progress("ready")
                self._serve(core)
        except BaseException as error:
            log.exception("the engine died")
            self._call_on_loop(self._fail_all, error)

    def _serve(self, core: EngineCore) -> None:
        """Tick until the end. Steps that follow each other quickly are reported together."""
        updates, sent = list[tuple[str, Update]](), -inf
        while self._receive(core):
            with self._turns:
                updates += core.tick()
            waits = perf_counter() - sent < STEPS_TOGETHER_S and not core.idle
            if updates and not (waits and all(isinstance(update, Stepped) for _, update in updates)):
                self._call_on_loop(self._deliver, updates)
                updates, sent = [], perf_counter()

    def _receive(self, core: EngineCore) -> bool:
        """Pass messages to the core; block while the core is idle. Returns False to stop."""
        while True:
            try:
                message = self._inbox.get(block=core.idle)
            except queue.Empty:
                return True
            if message is None:
                return False
            message(core)
