"""A replica as a `Worker` of this front."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from app.engine.cluster.replicas.wire import AnswerKind, Description, RequestKind, error_of, read_answer
from app.engine.cluster.workers import OnStep, WorkerInfo, WorkerLeft, WorkerLost
from app.engine.protocols import EngineStats
from app.engine.scheduler import CallKind
from app.engine.segments import codec
from app.engine.segments.messages import Segment, SegmentDone
from app.errors import EngineFailed


class OtherVersion(Exception):
    """The worker sent what no worker of this version sends."""


class Requests(Protocol):
    """The way to replicas; see `link.Link`."""

    def ask(self, to: str, kind: RequestKind, data: bytes) -> AsyncGenerator[bytes, None]:
        """The answers of a replica, or of any if `to` is empty. Raises WorkerLost."""
        ...

    def tell(self, to: str, kind: RequestKind, data: bytes) -> None:
        """Ask without waiting for answers."""
        ...


class ReplicaWorker:
    """A replica of an application. See `Worker`.

    Counters are those of this front's work on it.
    """

    def __init__(self, name: str, link: Requests) -> None:
        self._name = name
        self._link = link
        self._about: Description | None = None
        self._rows_running = self._rows_stepped = self._calls = 0
        self._seconds = 0.0
        self._remembers: set[str] = set()

    @property
    def name(self) -> str:
        """See `Worker`: the id of the replica."""
        return self._name

    @property
    def about(self) -> Description:
        """What it says of itself; after `start`."""
        assert self._about is not None
        return self._about

    @property
    def info(self) -> WorkerInfo:
        """See `Worker`."""
        return self.about.info

    async def start(self, on_lost: Callable[[BaseException], None]) -> None:  # noqa: ARG002
        """Ask what it holds; a loss shows in calls.

        Raises WorkerLost, OtherVersion, and the error of the worker.
        """
        found = await self._result("describe", b"")
        if not isinstance(found, Description):
            raise OtherVersion("the worker did not describe itself")
        self._about = found

    async def run(self, segment: Segment, on_step: OnStep) -> SegmentDone:
        """See `Worker`. A cancelled segment raises EngineFailed."""
        self._rows_running += len(segment.rows)
        try:
            result = await self._value("segment", codec.encode(segment), on_step)
        finally:
            self._rows_running -= len(segment.rows)
        if not isinstance(result, SegmentDone):
            raise EngineFailed("the worker did not return a segment")
        if any(row.state is None and not row.finished for row in result.rows):
            self._remembers.add(segment.spec.id)
        self._rows_stepped += result.work.rows_stepped
        self._calls += result.calls_made * (segment.stop - segment.step) // max(1, segment.spec.steps_made)
        self._seconds += result.device_seconds
        return result

    def cancel(self, segment_id: str) -> None:
        """See `Worker`."""
        self._link.tell(self._name, "cancel", codec.encode(segment_id))

    def forget(self, generation_id: str) -> None:
        """See `Worker`. A replica limits by itself what other fronts left behind."""
        if generation_id in self._remembers:
            self._remembers.discard(generation_id)
            self._link.tell(self._name, "forget", codec.encode(generation_id))

    async def call(self, name: str, *args: Any) -> Any:
        """See `Worker`."""
        return await self._value("call", codec.encode((name, args)))

    def stats(self) -> EngineStats:
        """See `Worker`. Denoiser calls that segments share count for each.

        Its weights are not in this process.
        """
        about = self._about
        return EngineStats(
            ready=about is not None,
            dead=False,
            draining=False,
            part="ready" if about is not None else "asking what it holds",
            held=0,
            queued=0,
            running=self._rows_running,
            capacity=0,
            rows_stepped=self._rows_stepped,
            denoiser_calls=self._calls,
            stage_seconds={CallKind.STEP: self._seconds},
            steering_refusal=about.stats.steering_refusal if about is not None else None,
            workers_ready=int(about is not None),
        )

    async def close(self) -> None:
        """See `Worker`. The replica serves other fronts."""

    async def _value(self, kind: RequestKind, data: bytes, on_step: OnStep = lambda _: None) -> Any:
        """The value of the last answer. Raises as `Worker.run`."""
        try:
            return await self._result(kind, data, on_step)
        except OtherVersion as error:
            raise EngineFailed(str(error)) from error

    async def _result(self, kind: RequestKind, data: bytes, on_step: OnStep = lambda _: None) -> Any:
        """The value of the last answer. Raises OtherVersion, and as `Worker.run`."""
        async with contextlib.aclosing(self._link.ask(self._name, kind, data)) as answers:
            async for each in answers:
                try:
                    found, value = read_answer(each)
                except ValueError as error:
                    raise OtherVersion("the worker sent no message of this version") from error
                if found is AnswerKind.STEP:
                    on_step(value)
                elif found is AnswerKind.RESULT:
                    return value
                elif found is AnswerKind.ERROR:
                    raise error_of(value)
                elif found is AnswerKind.CANCELLED:
                    raise EngineFailed("the segment was cancelled on its worker")
                elif found is AnswerKind.AWAY:
                    raise WorkerLeft(f"worker {self._name} takes no more work")
                else:
                    break
        raise WorkerLost(f"worker {self._name} is gone")
