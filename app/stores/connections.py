"""Connections to SQLite and PostgreSQL: pools, time limits, and the driver's errors as ours.

On SQLite writers of one process queue for one connection and take the file's lock at once (BEGIN IMMEDIATE); readers
never wait for them. A commit survives the death of the process; the last few may be lost with the power
(synchronous = NORMAL), never the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.errors import StoreUnavailable
from app.stores.timing import Stopwatch

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for the writers of other processes on the same SQLite file."""

CONNECT_TIMEOUT_S = 5.0
"""How long a PostgreSQL server may take to accept a connection, and a connection to come free."""

COMMAND_TIMEOUT_S = 15.0
"""How long one PostgreSQL statement may take."""

CONNECTIONS = 10
"""To PostgreSQL, from one process; two more for its listener and as a spare."""

CHANNEL = "frontrunner"
"""Where PostgreSQL tells of writes: the id of a generation, or nothing when one may be claimed."""

RECONNECT_S = 1.0
"""Pause before the listener tries to reach the server again."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class Connections:
    """Pools for reading and for writing: one and the same except for a SQLite file, which has one writer at a time."""

    def __init__(self, url: URL) -> None:
        self.watch = Stopwatch()
        self._url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        self.postgresql = self._url.get_backend_name() == "postgresql"
        self._troubles: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        if self.postgresql:
            self._troubles += _asyncpg_errors()
            self._reader = self._writer = _postgresql(self._url)
        else:
            self._reader, self._writer = _sqlite_pair(self._url)

    @asynccontextmanager
    async def transaction(self, *, write: bool) -> AsyncGenerator[AsyncConnection]:
        """Commits at the end, rolls back on any error; the driver's own become StoreUnavailable."""
        with self.watch.time("database_write" if write else "database_read"):
            try:
                async with (self._writer if write else self._reader).begin() as connection:
                    yield connection
            except self._troubles as error:
                raise StoreUnavailable("the database cannot be reached or has no room left") from error

    async def listen(self, heard: Callable[[str], None], ready: Callable[[bool], None]) -> None:
        """Call `heard` with what is told on the channel; `ready` tells whether the line is open. PostgreSQL only."""
        import asyncpg

        url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
                try:
                    lost = asyncio.Event()
                    connection.add_termination_listener(lambda *_, lost=lost: lost.set())
                    await connection.add_listener(CHANNEL, lambda *told: heard(str(told[-1])))
                    ready(True)
                    heard("")
                    await lost.wait()
                finally:
                    ready(False)
                    connection.terminate()
            except self._troubles:
                log.debug("nothing can be heard from the database")
            await asyncio.sleep(RECONNECT_S)

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.dispose()
        await self._writer.dispose()


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL needs another package: pip install 'frontrunner[production]'") from error
    return asyncpg.PostgresError, asyncpg.InterfaceError


def _postgresql(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_pre_ping=True,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S,
        connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S},
    )


def _sqlite_pair(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    writer = _sqlite(url, connections=1)
    event.listen(writer.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    in_memory = url.database in {None, "", ":memory:"}
    return (writer if in_memory else _sqlite(url, connections=4)), writer


def _sqlite(url: URL, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", _configure)
    return engine


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
