"""Loads members at their first use, on a thread that is not the engine's.

Work that names such a member waits for it, while other work goes on. After a load that failed, the call that needs the
member tries again on the engine's thread, and its error counts. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
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
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}

    async def load(self, members: Sequence[Member]) -> None:
        """Load those that are not loaded; never raises."""
        for member in members:
            if not is_deferred(member) or member.is_loaded:
                continue
            name = member.info.id
            if name not in self._loads:
                self._loads[name] = asyncio.create_task(asyncio.to_thread(_try_to_load, member), name=f"load {name}")
                self._loads[name].add_done_callback(partial(self._end_load, name))
            await asyncio.shield(self._loads[name])

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

    def _end_load(self, name: str, _: asyncio.Task[None]) -> None:
        del self._loads[name]

    async def _begin(self, work: str, members: Sequence[Member], start: Callable[[], None]) -> None:
        await self.load(members)
        if self._waiting.pop(work, None) is not None:
            start()


def _try_to_load(member: Deferred) -> None:
    try:
        member.loaded()
    except Exception:
        log.warning("a scorer could not be loaded", exc_info=True, extra={"scorer": member.info.id})
