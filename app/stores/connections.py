"""Connections to SQLite and PostgreSQL: pools, time limits, and the driver's errors as ours.

A transaction is a plain function of a connection. On SQLite it runs in a thread, whole, since handing each statement
to a thread costs more than the statement. Writers of one process queue for one connection and take the file's lock at
once (BEGIN IMMEDIATE); readers never wait for them. A commit survives the death of the process; the last few may be
lost with the power (synchronous = NORMAL), never the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from app.errors import StoreUnavailable
from app.stores.instrumentation import Stopwatch

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for the writers of other processes on the same SQLite file."""

CONNECT_TIMEOUT_S = 5.0
"""How long a PostgreSQL server may take to accept a connection."""

COMMAND_TIMEOUT_S = 15.0
"""How long one PostgreSQL statement may take, and a connection to come free for it."""

CONNECTIONS = 10
"""To PostgreSQL, from one process; two more for its listener and as a spare."""

CHANNEL = "frontrunner"
"""Where PostgreSQL tells of writes: the id of a generation, or nothing when one may be claimed."""

RECONNECT_S = 1.0
"""Pause before the listener tries to reach the server again."""

READERS = 4
"""Of a SQLite file, from one process."""

T = TypeVar("T")

_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class _Pool(Protocol):
    async def run(self, work: Callable[[Connection], T]) -> T: ...

    async def close(self) -> None: ...


class Connections:
    """Pools for reading and for writing: one and the same except for a SQLite file, which has one writer at a time."""

    def __init__(self, url: URL) -> None:
        self.watch = Stopwatch()
        self._url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        self.postgresql = self._url.get_backend_name() == "postgresql"
        self._troubles: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        self._reader: _Pool
        self._writer: _Pool
        if self.postgresql:
            self._troubles += _asyncpg_errors()
            self._reader = self._writer = _PostgresqlPool(self._url, self._connect)
        else:
            self._writer = _SqlitePool(self._url, 1, "BEGIN IMMEDIATE")
            in_memory = url.database in {None, "", ":memory:"}
            self._reader = self._writer if in_memory else _SqlitePool(self._url, READERS, "BEGIN")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, of one snapshot; it may run in a thread. Raises StoreUnavailable."""
        return await self._run("database_read", self._reader, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed; rolled back on any error it raises. Raises StoreUnavailable."""
        return await self._run("database_write", self._writer, work)

    async def _run(self, operation: str, pool: _Pool, work: Callable[[Connection], T]) -> T:
        with self.watch.time(operation):
            try:
                return await pool.run(work)
            except self._troubles as error:
                raise StoreUnavailable("the database cannot be reached or has no room left") from error

    async def _connect(self) -> Any:
        """A connection of the driver, which reads the address as PostgreSQL's own tools do (`?sslmode=...`)."""
        import asyncpg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S)

    async def listen(self, heard: Callable[[str], None], ready: Callable[[bool], None]) -> None:
        """Call `heard` with what is told on the channel; `ready` tells whether the line is open. PostgreSQL only."""
        while True:
            try:
                connection = await self._connect()
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
        await self._reader.close()
        await self._writer.close()


def inserting(connection: Connection, table: Table) -> Any:
    """An insert that may say what to do on a conflict, in the connection's dialect."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return make(table)


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL needs another package: pip install 'frontrunner[production]'") from error
    return asyncpg.PostgresError, asyncpg.InterfaceError


class _PostgresqlPool:
    """Asynchronous connections; the driver waits where `work` does."""

    def __init__(self, url: URL, connect: Callable[[], Awaitable[Any]]) -> None:
        self._engine = create_async_engine(
            url,
            async_creator=connect,
            pool_pre_ping=True,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=COMMAND_TIMEOUT_S,
        )

    async def run(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class _SqlitePool:
    """As many threads as connections; each transaction begins with `begin`."""

    def __init__(self, url: URL, connections: int, begin: str) -> None:
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="sqlite")
        self._engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(begin))

    async def run(self, work: Callable[[Connection], T]) -> T:
        try:
            running = self._threads.submit(_transaction, self._engine, work)
        except RuntimeError as error:
            raise StoreUnavailable("the database was closed, or no thread can be had for it") from error
        return await asyncio.wrap_future(running)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()


def _transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
