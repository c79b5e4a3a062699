"""Pools of database connections, each running transactions as plain functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from app.errors import StoreUnavailable

BUSY_TIMEOUT_S = 10.0
"""Seconds a writer waits for other processes' writers on the same SQLite file."""

COMMAND_TIMEOUT_S = 15.0
"""Timeout of one PostgreSQL statement, and of waiting for a free connection."""

IDLE_S = 1.0
"""Seconds without use until a PostgreSQL connection is tested at checkout."""

T = TypeVar("T")


class Pool(Protocol):
    """Runs transactions."""

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, and return its result after the commit."""

    async def close(self) -> None:
        """Close every connection."""


async def _no_codec(_: object) -> None:
    return None


class PostgresqlPool:
    """Up to `size` asynchronous connections; a greenlet runs `work` and waits.

    Without `kept`, statements are not prepared for later transactions.
    """

    def __init__(self, url: URL, connect: Callable[[], Awaitable[Any]], size: int, *, kept: bool) -> None:
        self._engine = create_async_engine(
            url,
            async_creator=connect,
            pool_size=size,
            max_overflow=0,
            pool_timeout=COMMAND_TIMEOUT_S,
            connect_args={} if kept else {"prepared_statement_cache_size": 0},
        )
        event.listen(self._engine.sync_engine, "checkout", _check_idle)
        event.listen(self._engine.sync_engine, "checkin", _note_use)
        # The dialect looks up JSON types outside a transaction, which fails behind a pooler; no JSON type is used.
        self._engine.dialect.setup_asyncpg_json_codec = _no_codec  # type: ignore[attr-defined]
        self._engine.dialect.setup_asyncpg_jsonb_codec = _no_codec  # type: ignore[attr-defined]

    async def run(self, work: Callable[[Connection], T]) -> T:
        """See Pool."""
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def close(self) -> None:
        """See Pool."""
        await self._engine.dispose()


class SqlitePool:
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
        """See Pool."""
        try:
            running = self._threads.submit(_transaction, self._engine, work)
        except RuntimeError as error:
            raise StoreUnavailable(
                "the database is closed, or no thread is available; reopen it or raise the thread limit"
            ) from error
        return await asyncio.wrap_future(running)

    async def close(self) -> None:
        """See Pool."""
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()


def _transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _check_idle(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Replace a connection that was lost while nothing used it."""
    if time.monotonic() - record.info.get("used", -IDLE_S) >= IDLE_S:
        try:
            connection.ping()
        except Exception as error:  # drivers have errors of their own; the pool connects again
            raise DisconnectionError from error


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
