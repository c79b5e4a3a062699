"""One face of SQLite and PostgreSQL: transactions, translated errors.

A transaction is a plain function of a connection. On SQLite the whole function runs in a thread, since one handover per
statement costs more than the statement. Writers of one process queue for one connection and lock the file at once
(BEGIN IMMEDIATE); readers never wait for writers. Commits survive a process crash. A power failure may lose the last
few commits but never corrupts the file (synchronous = NORMAL).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from app.errors import StoreUnavailable
from app.stores.connections.grouped import GroupedWrites
from app.stores.connections.pools import Pool, PostgresqlPool, SqlitePool
from app.stores.connections.server import DatabaseOptions, PostgresqlServer, notify_statement
from app.stores.instrumentation import StoreInstruments
from app.stores.privacy import private_file

SQLITE_READERS = 4
"""Reader connections per process to a SQLite file."""

T = TypeVar("T")

_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class Connections:
    """Pools for reading and for writing.

    Only a SQLite file has two: it allows one writer at a time.
    """

    def __init__(self, url: URL) -> None:
        self.instruments = StoreInstruments()
        self._url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
        self.postgresql = self._url.get_backend_name() == "postgresql"
        self._server: PostgresqlServer | None = None
        self._driver_errors: tuple[type[Exception], ...] = (SQLAlchemyError, OSError)
        self._reader: Pool
        self._writer: Pool
        self._grouped: GroupedWrites

    @classmethod
    async def open(cls, url: URL, options: DatabaseOptions) -> Self:
        """Open the pools of a database; `options` apply to PostgreSQL.

        Raises StoreUnavailable if it cannot be used, with what to change.
        """
        connections = cls(url)
        if connections.postgresql:
            connections._server = server = PostgresqlServer(connections._url, options)
            connections._driver_errors += server.errors
            await server.inspect()
            pool = PostgresqlPool(connections._url, server.connect, options.connections, kept=not server.pooled)
            connections._reader = connections._writer = pool
        else:
            in_memory = url.database in {None, "", ":memory:"}
            if url.database and not in_memory:
                _restrict_to_owner(url.database)
            connections._writer = SqlitePool(connections._url, 1, "BEGIN IMMEDIATE")
            reader = connections._writer if in_memory else SqlitePool(connections._url, SQLITE_READERS, "BEGIN")
            connections._reader = reader
        connections._grouped = GroupedWrites(connections._writer.run, connections._driver_errors)
        return connections

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands before the PostgreSQL server."""
        return self._server is not None and self._server.pooled

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one snapshot, maybe in a thread. Raises StoreUnavailable."""
        return await self._run("database_read", self._reader.run, work)

    async def write(self, work: Callable[[Connection], T], *, grouped: bool = False) -> T:
        """Run `work` in a transaction, and return its result after the commit.

        Any error that `work` raises rolls it back. A `grouped` one may share its transaction, and may run twice: see
        `grouped`. Raises StoreUnavailable.
        """
        return await self._run("database_write", self._grouped.write if grouped else self._writer.run, work)

    async def _run(
        self, operation: str, run: Callable[[Callable[[Connection], T]], Awaitable[T]], work: Callable[[Connection], T]
    ) -> T:
        try:
            with self.instruments.measure(operation), self._typed():
                return await run(work)
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

    async def listen(self, on_message: Callable[[str], None], on_state: Callable[[bool], None]) -> None:
        """Receive notifications until cancelled. PostgreSQL only.

        `on_message` gets each payload; `on_state` gets whether notifications arrive.
        """
        if self._server is not None:
            await self._server.listen(self._notify, on_message, on_state)

    async def _notify(self, payload: str) -> None:
        await self.write(lambda connection: connection.execute(notify_statement(payload)))

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.close()
        await self._writer.close()


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
