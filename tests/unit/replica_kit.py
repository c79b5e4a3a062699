"""Replicas of the fakes behind a link without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.replicas.body import ReplicaBody
from app.engine.cluster.replicas.link import LinkState
from app.engine.cluster.replicas.wire import RequestKind
from app.engine.cluster.workers import WorkerLost
from app.engine.config import EngineConfig
from models.protocols import Models
from tests.unit.cluster_kit import CONFIG, Faults, models


@dataclass
class FakeLink:
    """Replicas of this process, as Ray Serve shows them: `kill` is a kill -9, `stop` a scale-down.

    `asked` counts requests by kind. With `wakes`, a request to any starts a replica of that name. The next `breaks`
    segments are lost although their replica runs on. The next descriptions are those of `described`: bytes in place of
    the answer, an error on the way, or None for no answer.
    """

    load: Callable[[str], Models] = models
    wakes: str = ""
    breaks: int = 0
    described: list[bytes | Exception | None] = field(default_factory=list)
    application: str = "fake"
    state: LinkState = field(default_factory=LinkState)
    bodies: dict[str, ReplicaBody] = field(default_factory=dict)
    asked: list[tuple[str, RequestKind]] = field(default_factory=list)
    running: dict[str, set[asyncio.Future[None]]] = field(default_factory=dict)
    stopped: list[ReplicaBody] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.on_replicas: Callable[[frozenset[str]], None] = lambda _: None

    def start(self) -> None:
        self.state.connected, self.state.problem, self.state.application = True, "", "RUNNING"

    async def close(self) -> None:
        for body in (*self.bodies.values(), *self.stopped):
            await body.close()

    async def add(self, name: str, load: Callable[[str], Models] | None = None) -> None:
        body = ReplicaBody(name, lambda: (load or self.load)(name), CONFIG, lambda _: self.kill(name))
        await body.start()
        self.bodies[name] = body
        self._publish()

    def stop(self, name: str) -> None:
        self.stopped.append(self.bodies.pop(name))
        self._publish()

    def hide(self, name: str) -> None:
        """Serve routes no more requests to it, and has not said so yet."""
        self.stopped.append(self.bodies.pop(name))

    def kill(self, name: str) -> None:
        if (body := self.bodies.pop(name, None)) is not None:
            self.stopped.append(body)
            for ended in self.running.pop(name, ()):
                if not ended.done():
                    ended.set_result(None)
            self._publish()

    def away(self) -> None:
        """The cluster is gone."""
        self.state.connected, self.state.problem = False, "the cluster does not answer"
        for name in list(self.bodies):
            self.kill(name)

    @property
    def segments(self) -> set[str]:
        """The replicas that were asked to run segments."""
        return {to for to, kind in self.asked if kind == "segment"}

    def _publish(self) -> None:
        self.on_replicas(frozenset(self.bodies))

    async def ask(self, to: str, kind: RequestKind, data: bytes) -> AsyncGenerator[bytes, None]:
        self.asked.append((to, kind))
        body = self.bodies.get(to) or next(iter(self.bodies.values()), None)
        if body is None:
            raise WorkerLost(f"{to} is gone")
        if kind == "segment" and self.breaks:
            self.breaks -= 1
            raise WorkerLost("the network failed")
        if kind == "describe" and self.described:
            if isinstance(found := self.described.pop(0), Exception):
                raise found
            if found is None:
                await asyncio.Event().wait()
            else:
                yield found
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        running = self.running.setdefault(to, set())
        running.add(ended)
        try:
            async with aclosing(body.answers(to, kind, data)) as answers:
                while True:
                    following = asyncio.ensure_future(anext(answers, None))
                    both: list[asyncio.Future[Any]] = [following, ended]
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    if ended.done():
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
                        raise WorkerLost("its process has ended")
                    if (found := following.result()) is None:
                        return
                    yield found
        finally:
            running.discard(ended)

    def tell(self, to: str, kind: RequestKind, data: bytes) -> None:
        self.asked.append((to, kind))
        if not to and not self.bodies and self.wakes:
            self._later(self.add(self.wakes))
        elif to in self.bodies:
            self._later(self._drain(to, kind, data))

    async def _drain(self, to: str, kind: RequestKind, data: bytes) -> None:
        async for _ in self.bodies[to].answers(to, kind, data):
            pass

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@asynccontextmanager
async def replicas(
    link: FakeLink, *names: str, faults: Faults | None = None, max_attempts: int = 2
) -> AsyncIterator[tuple[ClusterEngine, list[BaseException]]]:
    deaths: list[BaseException] = []
    engine = ClusterEngine([], EngineConfig(), deaths.append, link=link, max_attempts=max_attempts)
    engine.start()
    for name in names:
        await link.add(name)
    while not deaths and (not engine.stats().ready or engine.stats().workers < len(names)):
        await asyncio.sleep(0.002)
    try:
        yield engine, deaths
    finally:
        if faults is not None:
            faults.released.set()
        await engine.close(0)


def faulty(faults: Faults, delay_s: float = 0.002) -> Callable[[str], Models]:
    return lambda name: models(name, faults, delay_s)
