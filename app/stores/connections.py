"""Connection pools for SQLite and PostgreSQL: time limits, translated errors.

A transaction is a plain function of a connection. On SQLite the whole function runs in a thread, since one handover per
statement costs more than the statement. Writers of one process queue for one connection and lock the file at once
(BEGIN IMMEDIATE); readers never wait for writers. Commits survive a process crash. A power failure may lose the last
few commits but never corrupts the file (synchronous = NORMAL).

A pooler such as PgBouncer may run each transaction on another server connection. Behind one, prepared statements do not
outlive their transaction, and replicas poll unless notifications arrive.
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
"""Seconds a writer waits for other processes' writers on the same SQLite file."""

CONNECT_TIMEOUT_S = 5.0
"""Timeout for connecting to a PostgreSQL server."""

COMMAND_TIMEOUT_S = 15.0
"""Timeout of one PostgreSQL statement, and of waiting for a free connection."""

MAX_CONNECTIONS = 10
"""Pooled PostgreSQL connections per process.

Two more serve the listener and as a spare.
"""

CHANNEL = "frontrunner"
"""PostgreSQL channel of writes: a generation's id, or empty when one is claimable."""

ECHO = "echo "
"""Prefix of the notification that a listener sends to itself to verify delivery."""

ECHO_S = 5.0
"""Seconds within which the echo must arrive."""

LISTEN_CHECK_S = 30.0
"""Seconds between two echo checks."""

RECONNECT_S = 1.0
"""Seconds before the listener reconnects."""

POLL_FALLBACK_S = 600.0
"""Seconds before the listener retries behind a pooler that drops notifications."""

NO_NOTIFICATIONS = (
    "PostgreSQL notifications do not arrive, so this replica polls. To receive them through PgBouncer, set "
    "FRONTRUNNER_DATABASE_URL to a database with pool_mode = session and 12 connections per replica, or to the server"
)

SQLITE_READERS = 4
"""Reader connections per process to a SQLite file."""

T = TypeVar("T")

_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class _Pool(Protocol):
    async def run(self, work: Callable[[Connection], T]) -> T: ...

    async def close(self) -> None: ...


class Connections:
    """Pools for reading and for writing.

    Only a SQLite file has two: it allows one writer at a time.
    """

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
        """Open the pools of a database. Raises StoreUnavailable if unreachable."""
        connections = cls(url)
        if connections.postgresql:
            connections._driver_errors += _asyncpg_errors()
            await connections._find_pooler()
            pool = _PostgresqlPool(connections._url, connections._connect, kept=not connections.pooled)
            connections._reader = connections._writer = pool
        else:
            in_memory = url.database in {None, "", ":memory:"}
            if url.database and not in_memory:
                _restrict_to_owner(url.database)
            connections._writer = _SqlitePool(connections._url, 1, "BEGIN IMMEDIATE")
            reader = connections._writer if in_memory else _SqlitePool(connections._url, SQLITE_READERS, "BEGIN")
            connections._reader = reader
        return connections

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one snapshot, maybe in a thread. Raises StoreUnavailable."""
        return await self._run("database_read", self._reader, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, and return its result after the commit.

        Any error that `work` raises rolls it back. Raises StoreUnavailable.
        """
        return await self._run("database_write", self._writer, work)

    async def _run(self, operation: str, pool: _Pool, work: Callable[[Connection], T]) -> T:
        try:
            with self.instruments.measure(operation), self._typed():
                return await pool.run(work)
        except (DataError, IntegrityError) as error:  # a faulty statement: the store itself is healthy
            raise StoreUnavailable(
                "the database rejected the write; check the server's log for the constraint"
            ) from error

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except (DataError, IntegrityError):
            raise
        except self._driver_errors as error:
            raise StoreUnavailable(
                "the database is unreachable or full; check the server and free space, then retry"
            ) from error

    async def _connect(self, *, kept: bool | None = None) -> Any:
        """Open a driver connection.

        The URL takes PostgreSQL's own options (`?sslmode=...`). Prepared statements are `kept` unless a pooler is in
        between.
        """
        import asyncpg

        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        cache = {} if (not self.pooled if kept is None else kept) else {"statement_cache_size": 0}
        return await asyncpg.connect(address, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, **cache)

    async def _find_pooler(self) -> None:
        """Detect a pooler: its process id differs from the server's."""
        with self._typed():
            connection = await self._connect(kept=False)
            try:
                async with connection.transaction():
                    self.pooled = connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()")
            finally:
                connection.terminate()
        if self.pooled:
            log.info("connection pooler detected: prepared statements are not kept")

    async def listen(self, on_message: Callable[[str], None], on_state: Callable[[bool], None]) -> None:
        """Receive notifications until cancelled. PostgreSQL only.

        `on_message` gets each payload; `on_state` gets whether notifications arrive.
        """
        errors: tuple[type[Exception], ...] = (StoreUnavailable, *self._driver_errors)
        while True:
            pause = RECONNECT_S
            try:
                connection = await self._connect()
                try:
                    await self._receive(connection, on_message, on_state)
                    pause = POLL_FALLBACK_S if self.pooled else RECONNECT_S
                finally:
                    on_state(False)
                    connection.terminate()
            except errors:
                log.debug("the notification listener lost the database; reconnecting")
            await asyncio.sleep(pause)

    async def _receive(
        self, connection: Any, on_message: Callable[[str], None], on_state: Callable[[bool], None]
    ) -> None:
        """Listen until the connection or an echo from another connection is lost."""
        echo_payload, echo, lost = ECHO + secrets.token_hex(8), asyncio.Event(), asyncio.Event()

        def received(*arguments: object) -> None:
            payload = str(arguments[-1])
            if payload == echo_payload:
                echo.set()
            elif not payload.startswith(ECHO):
                on_message(payload)

        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(CHANNEL, received)
        open_before = False
        while not lost.is_set():
            echo.clear()
            await self.write(lambda connection: connection.execute(notify_statement(echo_payload)))
            if not await _set_within(echo, ECHO_S) and not lost.is_set():
                await connection.remove_listener(CHANNEL, received)
                log.warning(NO_NOTIFICATIONS)
                return
            if not open_before:
                open_before = True
                on_state(True)
                on_message("")
            await _set_within(lost, LISTEN_CHECK_S)

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.close()
        await self._writer.close()


def notify_statement(payload: str) -> Select[Any]:
    """Statement that notifies all listeners at commit. PostgreSQL only."""
    return select(func.pg_notify(CHANNEL, payload))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def dialect_insert(connection: Connection, table: Table) -> Any:
    """An INSERT that supports ON CONFLICT, in the connection's dialect."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return make(table)


def _restrict_to_owner(database: str) -> None:
    """Restrict the file and SQLite's companion files to their owner."""
    private_file(Path(database))
    for beside in ("-wal", "-shm"):
        if (path := Path(database + beside)).exists():
            private_file(path)


def _asyncpg_errors() -> tuple[type[Exception], ...]:
    try:
        import asyncpg
    except ImportError as error:
        raise StoreUnavailable("PostgreSQL requires asyncpg: pip install 'frontrunner[production]'") from error
    return asyncpg.PostgresError, asyncpg.InterfaceError


async def _no_codec(_: object) -> None:
    return None


class _PostgresqlPool:
    """Asynchronous connections; `work` runs on a greenlet that waits for the driver."""

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
        # The dialect looks up JSON types outside a transaction, which fails behind a pooler; no JSON type is used.
        self._engine.dialect.setup_asyncpg_json_codec = _no_codec  # type: ignore[attr-defined]
        self._engine.dialect.setup_asyncpg_jsonb_codec = _no_codec  # type: ignore[attr-defined]

    async def run(self, work: Callable[[Connection], T]) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        await self._engine.dispose()


class _SqlitePool:
    """One thread per connection; each transaction starts with the `begin` statement."""

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
            raise StoreUnavailable(
                "the database is closed, or no thread is available; reopen it or raise the thread limit"
            ) from error
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
