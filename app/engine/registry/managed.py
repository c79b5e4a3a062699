"""An `Engine` whose model loads when needed and leaves when others need memory.

What only needs facts works from the card while the model is not loaded. Device calls wait for the model. Submissions go
to the shared queue, from which the model's own worker claims them once it is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.base.known_model import KnownModel, ModelFacts
from app.engine.protocols import EngineStats, UpdateSink
from app.engine.registry.cards import ModelCard, card_stats
from app.engine.registry.memory import ModelMemory
from app.engine.registry.served_engine import EngineFactory, Lifetime, ModelStateName, ServedEngine, Work
from app.errors import Draining, FrontrunnerError, Loading, ModelAway, ModelLoadFailed
from models.errors import ModelError
from models.protocols import Embeddings, Images, TextEmbedding
from models.protocols.image_inputs import ImageInputs

log = logging.getLogger(__name__)

LOAD_POLL_S = 0.02
"""Seconds between looks at a model that loads on its own thread."""

RETRY_LOAD_S = 30.0
"""Seconds after which a request tries to load a failed model again."""

YIELD_S = 1.0
"""Seconds for which a model takes no work after the memory asked it to make room."""

AWAITED_S = 5.0
"""Seconds that a model loaded for the queue stays without work.

Else models that share memory could unload each other for ever, and none would run.
"""


class ManagedEngine(KnownModel):
    """See the module. Event loop only; `on_death` is called if a loaded engine dies."""

    def __init__(
        self,
        name: str,
        make: EngineFactory,
        memory: ModelMemory,
        lifetime: Lifetime,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self.resident = lifetime.resident
        self.last_used = time.monotonic()
        self.loads = {"loaded": 0, "failed": 0, "unloaded": 0}
        self.card: ModelCard | None = None
        self.on_changed: Callable[[], None] = lambda: None
        self._make = make
        self._memory = memory
        self._lifetime = lifetime
        self._on_death = on_death
        self._inner: ServedEngine | None = None
        self._coming: ServedEngine | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._failed_at = self._yielded_at = -YIELD_S - RETRY_LOAD_S
        self._known_bytes = 0
        self._awaited, self._stays_until = False, 0.0
        self._uses = 0
        self._draining = False
        self._past = Work()
        memory.add(self)

    # life

    def start(self) -> None:
        """Start to load a resident model; returns at once."""
        if self.resident:
            self.request_load()

    def request_load(self) -> asyncio.Task[None]:
        """Load the model in the background unless it is loaded; never raises."""
        if self._task is None or (self._task.done() and self._inner is None):
            self._task = asyncio.create_task(self._load(), name=f"load {self.name}")
        return self._task

    def ask_for_load(self) -> None:
        """The same, unless it failed a moment ago."""
        if not self._failed_lately and not self._draining:
            self._awaited = self._awaited or self._inner is None
            self.request_load()

    async def known(self) -> None:
        """Wait until the facts of the model are known. Raises ModelLoadFailed, Draining."""
        if self._inner is None and self.card is None:
            await self._ready()

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._inner is not None

    @property
    def state(self) -> ModelStateName:
        """Whether the model is loaded."""
        if self._inner is not None:
            return "loaded"
        if self._task is not None and not self._task.done():
            return "loading"
        return "failed" if self._failure is not None else "waiting"

    @property
    def failure(self) -> ModelLoadFailed | None:
        """Why the last load failed, as an error to raise."""
        if self._failure is None:
            return None
        return ModelLoadFailed(self._failure, retry_after_s=RETRY_LOAD_S)

    @property
    def idle(self) -> bool:
        """Whether no work of it runs or waits here, or is about to come from the queue."""
        if self._uses or time.monotonic() < self._stays_until:
            return False
        return self._inner is None or self._inner.stats().held == 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, as measured when they were loaded; 0 unless loaded."""
        return self._known_bytes if self._inner is not None else 0

    def facts_card(self) -> ModelCard | None:
        """What is known of the model now; None before its first load."""
        return ModelCard.of(self._inner, self._inner.stats()) if self._inner is not None else self.card

    def yield_memory(self) -> None:
        """Take no new work for a second, but the one that it was loaded for."""
        if time.monotonic() >= self._stays_until:
            self._yielded_at = time.monotonic()

    async def unload(self) -> None:
        """Free the memory of an idle model; its facts stay."""
        inner, self._inner = self._inner, None
        if inner is None:
            return
        self.loads["unloaded"] += 1
        stats = inner.stats()
        self.card, self._past = ModelCard.of(inner, stats), self._past.after(stats)
        log.info("model unloaded", extra={"model": self.name})
        await inner.close(0)
        del inner
        await asyncio.to_thread(self._lifetime.release)

    async def _load(self) -> None:
        async with contextlib.nullcontext() if self._lifetime.elsewhere else self._memory.one_load:
            try:
                await self._load_alone()
            except Draining:
                log.debug("the process stops: %s is not loaded", self.name)
            except ModelLoadFailed as error:
                self._failed(error)
            except Exception as error:
                log.exception("loading failed", extra={"model": self.name})
                self._failed(self._unloadable([error]))
            finally:
                self._coming = None
        self.on_changed()

    def _failed(self, error: ModelLoadFailed) -> None:
        """Keep the reason, without the frames that hold what was loaded of the model."""
        self.loads["failed"] += 1
        self._failure, self._failed_at = error.detail, time.monotonic()
        log.warning("model not loaded: %s", error.detail, extra={"model": self.name})

    async def _load_alone(self) -> None:
        """Load while no other model does. Raises ModelLoadFailed and Draining."""
        expected = self._known_bytes or await asyncio.to_thread(self._lifetime.estimate)
        await self._memory.make_room(expected, self.name, measured=False)
        self._check_not_draining()
        reasons: list[BaseException] = []
        self._coming = coming = self._make(lambda reason: self._died(reason, reasons))
        coming.start()
        try:
            while not (stats := coming.stats()).ready:
                self._check_alive(stats, reasons)
                self._check_not_draining()
                await asyncio.sleep(LOAD_POLL_S)
            self._known_bytes = stats.weight_bytes
            await self._memory.make_room(self._known_bytes, self.name)
            self._check_alive(coming.stats(), reasons)
        except Exception:
            await coming.close(0)
            await asyncio.to_thread(self._lifetime.release)
            raise
        self.card, self._inner, self._failure = ModelCard.of(coming, stats), coming, None
        self.last_used, self.loads["loaded"] = time.monotonic(), self.loads["loaded"] + 1
        self._stays_until, self._awaited = self.last_used + AWAITED_S * self._awaited, False
        log.info("model loaded", extra={"model": self.name, "weight_bytes": self._known_bytes})

    def _died(self, reason: BaseException, reasons: list[BaseException]) -> None:
        """While it loads, only this model fails; a loaded one ends the process."""
        reasons.append(reason)
        if self._inner is not None:
            self._on_death(reason)

    def _check_alive(self, stats: EngineStats, reasons: Sequence[BaseException]) -> None:
        """Raises ModelLoadFailed if the engine died while it loaded."""
        if stats.dead:
            raise self._unloadable(reasons)

    def _check_not_draining(self) -> None:
        if self._draining:
            raise Draining("this replica is shutting down: retry after the interval in `Retry-After`", retry_after_s=1)

    def _unloadable(self, reasons: Sequence[BaseException]) -> ModelLoadFailed:
        reason = reasons[0] if reasons else None
        what = (
            str(reason)
            if isinstance(reason, ModelError | FrontrunnerError)
            else f"an error of type {type(reason).__name__}"
        )
        return ModelLoadFailed(
            f"model {self.name!r} cannot be loaded: {what}; correct its table in FRONTRUNNER_MODELS",
            retry_after_s=RETRY_LOAD_S,
        )

    def _check_loadable(self) -> None:
        """Raises ModelLoadFailed if the last load failed."""
        if (failure := self.failure) is not None:
            raise failure

    @property
    def _failed_lately(self) -> bool:
        return self._failure is not None and time.monotonic() - self._failed_at < RETRY_LOAD_S

    async def _ready(self) -> ServedEngine:
        """The loaded engine. Raises ModelLoadFailed and Draining."""
        while self._inner is None:
            self._check_not_draining()
            if self._failed_lately and self.state == "failed":
                self._check_loadable()
            await asyncio.shield(self.request_load())
        return self._inner

    @asynccontextmanager
    async def _used(self) -> AsyncIterator[ServedEngine]:
        """The loaded engine, which stays during the block."""
        self._uses += 1
        try:
            yield await self._ready()
        finally:
            self._uses -= 1
            self.last_used = time.monotonic()

    # the engine

    def _facts(self) -> ModelFacts:
        facts = self._inner or self.card
        if facts is None:
            self._check_loadable()
            raise Loading(f"model {self.name!r} is not loaded yet: {self.stats().part}", retry_after_s=2)
        return facts

    @property
    def _takes_work(self) -> bool:
        return self._inner is not None and time.monotonic() - self._yielded_at > YIELD_S

    def check_capacity(self, n_candidates: int) -> None:
        """See `Engine`; the store limits the queue of a model that is not loaded."""
        self._check_not_draining()
        if self._inner is not None and self._takes_work:
            self._inner.check_capacity(n_candidates)

    def submit(
        self,
        spec: GenerationSpec,
        sink: UpdateSink,
        *,
        exclusive: bool = False,
        inputs: ImageInputs | None = None,
    ) -> None:
        """See `Engine`. Raises ModelAway if it is not loaded, and loads it."""
        self.last_used = time.monotonic()
        if self._draining:
            self.check_capacity(spec.n_candidates)
        if self._inner is None or not self._takes_work:
            self.ask_for_load()
            raise ModelAway(f"model {self.name!r} is not loaded now: its requests wait in the queue", retry_after_s=2)
        self._inner.submit(spec, sink, exclusive=exclusive, inputs=inputs)
        self._stays_until = 0.0

    def cancel(self, generation_id: str) -> None:
        """See `Engine`."""
        if self._inner is not None:
            self._inner.cancel(generation_id)

    async def embed_texts(self, texts: Sequence[str], scorer: str | None = None) -> list[TextEmbedding]:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.embed_texts(texts, scorer)

    async def embed_images(self, images: Sequence[NDArray[np.uint8]], scorer: str | None = None) -> Embeddings:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.embed_images(images, scorer)

    async def score_images(self, images: Sequence[NDArray[np.uint8]], text: str, scorer: str) -> NDArray[np.float32]:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.score_images(images, text, scorer)

    async def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.embed_patches(image)

    async def decode(self, latents: NDArray[np.float16]) -> Images:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.decode(latents)

    async def encode_images(self, images: Images) -> NDArray[np.float16]:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.encode_images(images)

    async def upscale(self, image: NDArray[np.uint8], prompt: str, seed: int) -> NDArray[np.uint8]:
        """See `Engine`."""
        async with self._used() as engine:
            return await engine.upscale(image, prompt, seed)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See `Engine`; a held model is not idle."""
        self._uses += 1
        try:
            with self._inner.hold() if self._inner is not None else contextlib.nullcontext():
                yield
        finally:
            self._uses -= 1

    async def prepare(self, spec: GenerationSpec) -> None:
        """See `Engine`."""
        if spec.loras or spec.steering is not None:
            async with self._used() as engine:
                await engine.prepare(spec)

    def stats(self) -> EngineStats:
        """See `Engine`."""
        if self._inner is not None:
            stats = self._inner.stats()
            stats = stats if self._takes_work else replace(stats, draining=True)
        else:
            part = self._coming.stats().part if self._coming is not None else self.state
            stats = card_stats(self.card, part, self._lifetime.capacity, draining=self._draining)
        return self._past.added(stats)

    def drain(self) -> None:
        """Reject new work, and load nothing more."""
        self._draining = True
        for engine in (self._inner, self._coming):
            if engine is not None:
                engine.drain()

    async def wait_drained(self, drain_s: float) -> bool:
        """See `ServedEngine`."""
        self.drain()
        return await self._inner.wait_drained(drain_s) if self._inner is not None else True

    async def close(self, drain_s: float) -> None:
        """See `Engine`."""
        self.drain()
        if self._task is not None:
            await self._task
        if self._inner is not None:
            await self._inner.close(drain_s)
