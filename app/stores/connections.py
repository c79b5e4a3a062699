"""Connections to SQLite and PostgreSQL: pools, time limits, and the driver's errors as ours.

A transaction is a plain function of a connection. On SQLite it runs in a thread, whole, since handing each statement
to a thread costs more than the statement. Writers of one process queue for one connection and take the file's lock at
once (BEGIN IMMEDIATE); readers never wait for them. A commit survives the death of the process; the last few may be
lost with the power (synchronous = NORMAL), never the file.

A pooler such as PgBouncer may run each transaction on another server connection. Where one is found, no prepared
statement outlives its transaction, and replicas poll unless notifications are seen to arrive.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Select, Table, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from app.errors import StoreUnavailable
from app.stores.instrumentation import StoreInstruments
from app.stores.privacy import private_file

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for the writers of other processes on the same SQLite file."""

CONNECT_TIMEOUT_S = 5.0
"""How long a PostgreSQL server may take to accept a connection."""

COMMAND_TIMEOUT_S = 15.0
"""How long one PostgreSQL statement may take, and a connection to come free for it."""

MAX_CONNECTIONS = 10
"""To PostgreSQL, from one process; two more for its listener and as a spare."""

CHANNEL = "frontrunner"
"""Where PostgreSQL tells of writes: the id of a generation, or nothing when one may be claimed."""

ECHO = "echo "
"""Prefix of the notification that a listener sends to itself to check that notifications arrive."""

ECHO_S = 5.0
"""Seconds within which it must arrive."""

LISTEN_CHECK_S = 30.0
"""Seconds between two checks."""

RECONNECT_S = 1.0
"""Pause before the listener tries to reach the server again."""

DEAF_S = 600.0
"""Pause before the listener tries again through a pooler that forwards no notifications."""

DEAF = (
    "PostgreSQL notifications do not arrive, so this replica polls. To receive them through PgBouncer, set "
    "FRONTRUNNER_DATABASE_URL to a database with pool_mode = session and 12 connections per replica, or to the server"
)

SQLITE_READERS = 4
"""Of a SQLite file, from one process."""

T = TypeVar("T")

_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class _Pool(Protocol):
    async def run(self, work: Callable[[Connection], T]) -> T: ...

    async def close(self) -> None: ...


class Connections:
    """Pools for reading and for writing: one and the same except for a SQLite file, which has one writer at a time."""

    def __init__(self, url: URL) -> None:
        self.instruments = StoreInstruments()
        self._url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        self.postgresql = self._url.get_backend_name() == "postgresql"
        self.pooled = False
        self._driver_errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        self._reader: _Pool
        self._writer: _Pool

    @classmethod
    async def open(cls, url: URL) -> Self:
        """The pools of a database. Raises StoreUnavailable when a server cannot be reached."""
        connections = cls(url)
        if connections.postgresql:
            connections._driver_errors += _asyncpg_errors()
            await connections._find_pooler()
            pool = _PostgresqlPool(connections._url, connections._connect, kept=not connections.pooled)
            connections._reader = connections._writer = pool
        else:
            in_memory = url.database in {None, "", ":memory:"}
            if url.database and not in_memory:
                _close_to_others(url.database)
            connections._writer = _SqlitePool(connections._url, 1, "BEGIN IMMEDIATE")
            reader = connections._writer if in_memory else _SqlitePool(connections._url, SQLITE_READERS, "BEGIN")
            connections._reader = reader
        return connections

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, of one snapshot; it may run in a thread. Raises StoreUnavailable."""
        return await self._run("database_read", self._reader, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed; rolled back on any error it raises. Raises StoreUnavailable."""
        return await self._run("database_write", self._writer, work)

    async def _run(self, operation: str, pool: _Pool, work: Callable[[Connection], T]) -> T:
        try:
            with self.instruments.measure(operation), self._typed():
                return await pool.run(work)
        except (DataError, IntegrityError) as error:  # the statement is at fault, and the store as well as before
            raise StoreUnavailable("the database refuses what was to be written") from error

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except (DataError, IntegrityError):
            raise
        except self._driver_errors as error:
            raise StoreUnavailable("the database cannot be reached or has no room left") from error

    async def _connect(self, *, kept: bool | None = None) -> Any:
        """A connection of the driver, which reads the address as PostgreSQL's own tools do (`?sslmode=...`).

        Statements are `kept` prepared, unless there is a pooler.
        """
        import asyncpg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        cache = {} if (not self.pooled if kept is None else kept) else {"statement_cache_size": 0}
        return await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, **cache)

    async def _find_pooler(self) -> None:
        """Detect a pooler: it gives clients a process id of its own, which is not the server's."""
        with self._typed():
            connection = await self._connect(kept=False)
            try:
                async with connection.transaction():
                    self.pooled = connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()")
            finally:
                connection.terminate()
        if self.pooled:
            log.info("PostgreSQL is reached through a connection pooler: no prepared statements are kept")

    async def listen(self, on_message: Callable[[str], None], on_state: Callable[[bool], None]) -> None:
        """Call `on_message` with each payload on the channel, `on_state` with whether all of them arrive. PostgreSQL
        only.
        """
        troubles: tuple[type[Exception], ...] = (StoreUnavailable, *self._driver_errors)
        while True:
            pause = RECONNECT_S
            try:
                connection = await self._connect()
                try:
                    await self._hear(connection, on_message, on_state)
                    pause = DEAF_S if self.pooled else RECONNECT_S
                finally:
                    on_state(False)
                    connection.terminate()
            except troubles:
                log.debug("nothing can be heard from the database")
            await asyncio.sleep(pause)

    async def _hear(self, connection: Any, heard: Callable[[str], None], ready: Callable[[bool], None]) -> None:
        """Listen until the connection is lost, or a notification that this process sends on another one is missing."""
        word, echo, lost = ECHO + secrets.token_hex(8), asyncio.Event(), asyncio.Event()

        def received(*given: object) -> None:
            payload = str(given[-1])
            if payload == word:
                echo.set()
            elif not payload.startswith(ECHO):
                heard(payload)

        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, received)
        open_before = False
        while not lost.is_set():
            echo.clear()
            await self.write(lambda connection: connection.execute(telling(word)))
            if not await _set_within(echo, ECHO_S) and not lost.is_set():
                await connection.remove_listener(CHANNEL, received)
                log.warning(DEAF)
                return
            if not open_before:
                open_before = True
                ready(True)
                heard("")
            await _set_within(lost, LISTEN_CHECK_S)

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.close()
        await self._writer.close()


def telling(payload: str) -> Select[Any]:
    """Notifies every listener once its transaction is committed. PostgreSQL only."""
    return select(func.pg_notify(CHANNEL, payload))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def inserting(connection: Connection, table: Table) -> Any:
    """An insert that may say what to do on a conflict, in the connection's dialect."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return make(table)


def _close_to_others(database: str) -> None:
    """The file, and those that SQLite keeps beside it, which otherwise are as the file is."""
    private_file(Path(database))
    for beside in ("-wal", "-shm"):
        if (path := Path(database + beside)).exists():
            private_file(path)


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL needs another package: pip install 'frontrunner[production]'") from error
    return asyncpg.PostgresError, asyncpg.InterfaceError


async def _no_codec(_: object) -> None:
    return None


class _PostgresqlPool:
    """Asynchronous connections; the driver waits where `work` does."""

    def __init__(self, url: URL, connect: Callable[[], Awaitable[Any]], *, kept: bool) -> None:
        self._engine = create_async_engine(
            url,
            async_creator=connect,
            pool_pre_ping=True,
            pool_size=MAX_CONNECTIONS,
            max_overflow=0,
            pool_timeout=COMMAND_TIMEOUT_S,
            connect_args={} if kept else {"prepared_statement_cache_size": 0},
        )
        # The dialect asks for the types of JSON outside any transaction, which a pooler may tear apart; none is used.
        self._engine.dialect.setup_asyncpg_json_codec = _no_codec  # type: ignore[attr-defined]
        self._engine.dialect.setup_asyncpg_jsonb_codec = _no_codec  # type: ignore[attr-defined]

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
