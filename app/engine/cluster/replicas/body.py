"""What a replica does: one device with its models, asked by fronts.

Owns the answers. It knows neither Ray nor settings; messages are bytes of `wire`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import monotonic
from typing import Any

from app import __version__
from app.engine.cluster.replicas.wire import CALLS, AnswerKind, Description, RequestKind, answer, note_of
from app.engine.cluster.workers import InProcessWorker, WorkerLost
from app.engine.config import EngineConfig
from app.engine.local import ModelLoader
from app.engine.segments import codec
from app.engine.segments.messages import Kept, Segment, SegmentDone
from app.engine.warmup import Progress
from app.errors import EngineFailed

log = logging.getLogger(__name__)

STEPS_EVERY_S = 0.1
"""Minimum seconds between two reports of a segment's steps."""

LATENTS_EVERY_S = 1.0
"""The same for its latents, which are large."""

CANCELS = 4096
"""Cancelled segments that are remembered: a cancel may overtake its segment."""


class ReplicaBody:
    """A worker that answers requests.

    `on_death` is called once if the device dies after `start`.
    """

    def __init__(
        self,
        name: str,
        load: ModelLoader,
        config: EngineConfig,
        on_death: Callable[[BaseException], None],
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self._worker = InProcessWorker(name, load, config, progress)
        self._on_death = on_death
        self._cancelled: OrderedDict[str, None] = OrderedDict()

    async def start(self) -> None:
        """Load the models. Raises the error of loading."""
        await self._worker.start(self._on_death)

    @property
    def dead(self) -> bool:
        """Whether the device has died."""
        return self._worker.stats().dead

    async def close(self) -> None:
        """Stop the device."""
        await self._worker.close()

    async def answers(self, to: str, kind: RequestKind, data: bytes) -> AsyncGenerator[bytes, None]:
        """The answers to a request: reports of steps, then one that ends it.

        `to` names the replica that is meant; empty for any.
        """
        if to not in {"", self.name}:
            yield answer(AnswerKind.AWAY)
            return
        try:
            if kind == "segment":
                async with aclosing(self._segment(codec.decode(data))) as answers:
                    async for each in answers:
                        yield each
            else:
                yield answer(AnswerKind.RESULT, await self._once(kind, data))
        except WorkerLost:
            yield answer(AnswerKind.LOST)
        except Exception as error:
            note = note_of(error)
            if note.name == EngineFailed.__name__:
                log.exception("a request of a front failed", extra={"request": kind})
            yield answer(AnswerKind.ERROR, note)

    async def _segment(self, segment: Segment) -> AsyncGenerator[bytes, None]:
        """Run a segment. A front that goes away cancels it."""
        if segment.id in self._cancelled:
            yield answer(AnswerKind.CANCELLED)
            return
        moved, sent = asyncio.Event(), monotonic()
        reached: int | Kept = segment.step

        def note(now: int | Kept) -> None:
            nonlocal reached, sent
            if isinstance(now, Kept):
                if monotonic() - sent < LATENTS_EVERY_S:
                    return
                sent = monotonic()
            elif isinstance(reached, Kept) and moved.is_set():
                return
            reached = now
            moved.set()

        running = asyncio.create_task(self._worker.run(segment, note))
        running.add_done_callback(_look_at)
        try:
            while not running.done():
                await _either(running, moved)
                if moved.is_set() and not running.done():
                    moved.clear()
                    yield answer(AnswerKind.STEP, reached)
                    await asyncio.wait([running], timeout=STEPS_EVERY_S)
            if running.cancelled():
                yield answer(AnswerKind.CANCELLED)
            else:
                yield answer(AnswerKind.RESULT, running.result())
        finally:
            if not running.done():
                self._worker.cancel(segment.id)

    async def _once(self, kind: RequestKind, data: bytes) -> object:
        if kind == "describe":
            return Description(__version__, self.name, self._worker.info, self._worker.stats())
        value = codec.decode(data)
        if kind == "cancel":
            self._worker.cancel(value)
            self._cancelled[value] = None
            if len(self._cancelled) > CANCELS:
                self._cancelled.popitem(last=False)
            return None
        if kind == "forget":
            self._worker.forget(value)
            return None
        name, args = value
        if name not in CALLS:
            raise ValueError(f"{name!r} is no call of a replica")
        return await self._worker.call(name, *args)


def _look_at(running: asyncio.Task[SegmentDone]) -> None:
    """Take the error of a segment whose front has left."""
    if not running.cancelled():
        running.exception()


async def _either(running: asyncio.Future[SegmentDone], moved: asyncio.Event) -> None:
    """Wait for the end of a segment or for a step."""
    waiting: asyncio.Future[Any] = asyncio.create_task(moved.wait())
    both: list[asyncio.Future[Any]] = [running, waiting]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
