"""Writes that wait for each other share a transaction.

A transaction costs more than the statement in it. While one runs, further writes collect, and the next one takes them
all. Only writes that lock nothing but rows of this process may be grouped: two groups of different processes then
never wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], Any]
Run: TypeAlias = Callable[[Work], Awaitable[Any]]

MOST = 64
"""Writes in one transaction."""


class GroupedWrites:
    """Use in one event loop. `run` runs a function in a transaction.

    `unavailable` are errors of the connection, which all writes of a group get. After any other error each write runs
    again on its own, so that none sees the error of another one.
    """

    def __init__(self, run: Run, unavailable: tuple[type[Exception], ...]) -> None:
        self._run = run
        self._unavailable = unavailable
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """The result of `work` after the commit. Raises what it raises."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._running is None:
            self._running = asyncio.create_task(self._drain(), name="writes")
        return await done

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                await self._commit([(work, done) for work, done in group if not done.cancelled()])
        finally:
            self._running = None

    async def _commit(self, group: list[tuple[Work, asyncio.Future[Any]]]) -> None:
        if not group:
            return
        try:
            results = await self._run(lambda connection: [work(connection) for work, _ in group])
        except Exception as error:
            final = isinstance(error, self._unavailable) and not isinstance(error, DataError | IntegrityError)
            if len(group) == 1 or final:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                return
            for each in group:
                await self._commit([each])
        else:
            for (_, done), result in zip(group, results, strict=True):
                if not done.done():
                    done.set_result(result)
