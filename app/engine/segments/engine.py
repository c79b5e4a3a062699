"""A `LocalEngine` whose thread runs segments: the device of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import cast

from app.engine.base.drainable import Held
from app.engine.core import EngineCore
from app.engine.local import LocalEngine
from app.engine.protocols import Cancelled, Failed, Started, Stepped, Update
from app.engine.segments.core import SegmentCore
from app.engine.segments.messages import Kept, Segment, SegmentDone


class SegmentEngine(LocalEngine):
    """The engine of a worker. Use it on the loop of `start`."""

    core_type = SegmentCore

    async def run_segment(self, segment: Segment, on_step: Callable[[int | Kept], None]) -> SegmentDone:
        """Run a segment.

        `on_step` gets the steps that all its rows have completed, from `segment.step`, and latents now and then.
        Raises CancelledError after `cancel`, EngineDead, Loading, Draining, and the error of the segment.
        """
        self._check_accepting()
        ended: asyncio.Future[SegmentDone] = asyncio.get_running_loop().create_future()

        def receive(updates: Sequence[Update]) -> None:
            for update in updates:
                if isinstance(update, Started | Stepped):
                    on_step(update.step if isinstance(update, Stepped) else segment.step)
                elif isinstance(update, Failed) and not ended.done():
                    ended.set_exception(update.error)
                elif isinstance(update, Cancelled):
                    ended.cancel()

        self._held[segment.id] = Held(receive, len(segment.rows))
        self._idle.clear()
        deliver = partial(self._call_on_loop, self._end_segment, segment.id, ended)
        submitted = perf_counter()
        keep = partial(self._call_on_loop, on_step)

        def submit(core: EngineCore) -> None:
            cast(SegmentCore, core).submit_segment(segment, submitted, deliver, keep)

        self._enter(segment.id, segment.spec, submit)
        return await ended

    def forget(self, generation_id: str) -> None:
        """Drop what the device remembers of a generation that has ended."""

        def drop(core: EngineCore) -> None:
            cast(SegmentCore, core).forget(generation_id)

        self._inbox.put(drop)

    def _end_segment(self, segment_id: str, ended: asyncio.Future[SegmentDone], result: SegmentDone) -> None:
        if segment_id in self._held:
            self._remove_held(segment_id)
        if not ended.done():
            ended.set_result(result)
