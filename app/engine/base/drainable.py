"""The end of an engine: it rejects new work, and waits for what is held."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from app.engine.protocols import UpdateSink
from app.errors import Draining


@dataclass(frozen=True, slots=True)
class Held:
    """A generation that was admitted and has not ended."""

    sink: UpdateSink
    candidates: int


def stopped() -> Draining:
    """The error of what a closed engine did not end."""
    return Draining("this replica has stopped: retry on another one", retry_after_s=1)


class Drainable(ABC):
    """See the module. Event loop only."""

    def __init__(self) -> None:
        self._draining = False
        self._holds = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """Whether admitted work has not ended."""

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """See `Engine`."""
        self._holds += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._holds -= 1
            self._set_idle()

    def drain(self) -> None:
        """Reject new work from now on; running work continues."""
        self._draining = True

    async def wait_drained(self, drain_s: float) -> bool:
        """Reject new work and wait up to `drain_s`; return whether all work has ended."""
        self.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        return self._idle.is_set()

    def _set_idle(self) -> None:
        if not self._has_work and not self._holds:
            self._idle.set()
