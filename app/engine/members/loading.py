"""Loads members at their first use, on a thread that is not the engine's.

Work that names such a member waits for it, while other work goes on. After a load that failed, the call that needs the
member tries again on the engine's thread, and its error counts. Nothing waits for a load once this is closed, not even
the end of the process. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from app.domain import GenerationSpec
from models.protocols import Embedder, Models, Scorer
from models.protocols.scoring import Deferred, is_deferred

log = logging.getLogger(__name__)

Member: TypeAlias = Embedder | Scorer


def named_members(models: Models, spec: GenerationSpec) -> list[Member]:
    """The loaded or deferred members that the ranking of a generation names."""
    named = spec.ranking.weights(models.scorer.info.id)
    return [each for each in models.members if each.info.id in named]


class MemberLoads:
    """See the module. A member that several wait for is loaded once."""

    def __init__(self) -> None:
        self._loads: dict[str, asyncio.Future[None]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def load(self, members: Sequence[Member]) -> bool:
        """Load those that are not loaded, or try to; False if it was closed before."""
        for member in members:
            if not is_deferred(member) or member.is_loaded:
                continue
            if self._closed:
                return False
            name = member.info.id
            if name not in self._loads:
                self._loads[name] = self._start(member)
            await asyncio.shield(self._loads[name])
        return not self._closed or all(not is_deferred(each) or each.is_loaded for each in members)

    def begin(self, work: str, members: Sequence[Member], start: Callable[[], None]) -> None:
        """Call `start` once the members are loaded: at once, if they are."""
        if all(not is_deferred(each) or each.is_loaded for each in members):
            start()
        else:
            self._waiting[work] = asyncio.create_task(self._begin(work, members, start), name=f"await scorers {work}")

    def drop(self, work: str) -> bool:
        """Whether the work still waited; it then never starts."""
        task = self._waiting.pop(work, None)
        if task is not None:
            task.cancel()
        return task is not None

    def close(self) -> list[str]:
        """Wait for no load any more; return the work that waited, which never starts."""
        self._closed = True
        for loading in self._loads.values():
            if not loading.done():
                loading.set_result(None)
        return [work for work in list(self._waiting) if self.drop(work)]

    def _start(self, member: Deferred) -> asyncio.Future[None]:
        """Load on a daemon thread.

        A thread of a pool would keep the process until the load ends.
        """
        loop, loading = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def end() -> None:
            del self._loads[member.info.id]
            if not loading.done():
                loading.set_result(None)

        def run() -> None:
            _try_to_load(member)
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(end)

        threading.Thread(target=run, name=f"load {member.info.id}", daemon=True).start()
        return loading

    async def _begin(self, work: str, members: Sequence[Member], start: Callable[[], None]) -> None:
        await self.load(members)
        if self._waiting.pop(work, None) is not None:
            start()


def _try_to_load(member: Deferred) -> None:
    try:
        member.loaded()
    except Exception:
        log.warning("a scorer could not be loaded", exc_info=True, extra={"scorer": member.info.id})
