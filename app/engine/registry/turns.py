"""Turns of engines on one device: the one that waited longest is next.

Models on one device share it by the tick. So measured costs are those of one model, memory peaks do not add up, and a
scorer that several models share is never called by two threads at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType


class Turns:
    """A fair lock, as a context manager. Any thread; not re-entrant."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        """Wait for the turn; first come, first served."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Pass the turn on."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class FoundTurns:
    """The turns that `find` returns on the first use.

    Names of devices are resolved once models are loaded.
    """

    def __init__(self, find: Callable[[], Turns]) -> None:
        self._find = find
        self._found: Turns | None = None

    def __enter__(self) -> None:
        """See `Turns`."""
        self._found = self._found or self._find()
        self._found.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Turns`."""
        assert self._found is not None
        self._found.__exit__(kind, error, trace)
