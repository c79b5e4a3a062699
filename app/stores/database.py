"""Generations and their event logs in a SQL database. Owns tables and transactions, and no rule of the product.

SQLite in WAL mode is the default; the URL alone decides. A generation is one row that carries its whole record as
JSON beside the few columns that queries need. A log line's number comes out of the same statement that locks its
generation, so numbers have no gaps however many processes append. On SQLite writers of one process queue for one
connection and take the file's lock at once (BEGIN IMMEDIATE); readers never wait for them. A commit survives the
death of the process; the last few may be lost with the power (synchronous = NORMAL), never the file.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pydantic_core
from pydantic import TypeAdapter
from sqlalchemy import (
    URL,
    Column,
    Double,
    Executable,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    event,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.domain import Event, EventKind, Generation, Status
from app.errors import StoreUnavailable
from app.stores.contract import Line

SCHEMA_VERSION = 1
"""What this code reads and writes; a database that says more was made by a later release."""

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for the writers of other processes on the same SQLite file."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite"}
_FINAL = [status.value for status in Status if status.final]

_metadata = MetaData()
_schema = Table("schema_version", _metadata, Column("version", Integer, primary_key=True))
_generations = Table(
    "generations",
    _metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double),
    Column("lease_until", Double),
    Column("last_seq", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Index("generations_by_lease", "status", "lease_until"),
    Index("generations_by_age", "status", "created"),
)
_events = Table(
    "events",
    _metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("data", Text, nullable=False),
    Column("created", Double, nullable=False),
)
_record = TypeAdapter(Generation)


class Database:
    """`Records` over SQLAlchemy. Made by `open`; belongs to the event loop it was opened in."""

    def __init__(self, reader: AsyncEngine, writer: AsyncEngine, clock: Callable[[], float]) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = clock

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> Self:
        """Connect, and make the tables where there are none.

        `sqlite:///folder/file` needs the folder; `sqlite://` lives in memory until it is closed. `clock` dates the
        log. Raises StoreUnavailable, also when the database was made by a later release.
        """
        database = cls(*_engines(make_url(url)), clock)
        try:
            await database._prepare()
        except BaseException:
            await database.close()
            raise
        return database

    async def _prepare(self) -> None:
        async with _transaction(self._writer) as connection:
            await connection.run_sync(_metadata.create_all)
            version = await connection.scalar(select(_schema.c.version))
            if version is None:
                await connection.execute(insert(_schema).values(version=SCHEMA_VERSION))
        if version is not None and version > SCHEMA_VERSION:
            raise StoreUnavailable(
                f"the database has schema {version} and this release knows {SCHEMA_VERSION}: start a later release"
            )

    async def create(self, generation: Generation, lines: Sequence[Line], *, lease_until: float) -> None:
        """See Records."""
        row = {"id": generation.id, "last_seq": len(lines), **_columns(generation, lease_until)}
        async with _transaction(self._writer) as connection:
            await connection.execute(insert(_generations).values(row))
            await self._log(connection, generation.id, 1, lines)

    async def save(self, generation: Generation, lines: Sequence[Line], *, lease_until: float | None) -> bool:
        """See Records."""
        return await self._write(generation.id, _columns(generation, lease_until), lines)

    async def append(self, generation_id: str, lines: Sequence[Line], *, lease_until: float) -> bool:
        """See Records."""
        return await self._write(generation_id, {"lease_until": lease_until}, lines)

    async def _write(self, generation_id: str, columns: Mapping[str, Any], lines: Sequence[Line]) -> bool:
        advance = (
            update(_generations)
            .where(_generations.c.id == generation_id)
            .values(last_seq=_generations.c.last_seq + len(lines), **columns)
            .returning(_generations.c.last_seq)
        )
        async with _transaction(self._writer) as connection:
            last = await connection.scalar(advance)
            if last is not None:
                await self._log(connection, generation_id, last - len(lines) + 1, lines)
        return last is not None

    async def _log(self, connection: AsyncConnection, generation_id: str, first: int, lines: Sequence[Line]) -> None:
        now = self._clock()
        rows = [
            {"generation_id": generation_id, "seq": seq, "kind": line.kind, "data": _json(line.data), "created": now}
            for seq, line in enumerate(lines, first)
        ]
        if rows:
            await connection.execute(insert(_events), rows)

    async def get(self, generation_id: str) -> Generation | None:
        """See Records."""
        rows = await self._read(select(_generations.c.record).where(_generations.c.id == generation_id))
        return _record.validate_json(rows[0].record) if rows else None

    async def events(self, generation_id: str, after: int, limit: int = 500) -> list[Event]:
        """See Records."""
        query = (
            select(_events.c.seq, _events.c.kind, _events.c.data, _events.c.created)
            .where(_events.c.generation_id == generation_id, _events.c.seq > after)
            .order_by(_events.c.seq)
            .limit(limit)
        )
        rows = await self._read(query)
        return [Event(row.seq, EventKind(row.kind), pydantic_core.from_json(row.data), row.created) for row in rows]

    async def lapsed(self, now: float, limit: int = 100) -> list[Generation]:
        """See Records."""
        query = (
            select(_generations.c.record)
            .where(_generations.c.status.not_in(_FINAL), _generations.c.lease_until < now)
            .order_by(_generations.c.lease_until)
            .limit(limit)
        )
        return [_record.validate_json(row.record) for row in await self._read(query)]

    async def expired(self, created_before: float, limit: int = 100) -> list[str]:
        """See Records."""
        query = (
            select(_generations.c.id)
            .where(_generations.c.status.in_(_FINAL), _generations.c.created < created_before)
            .order_by(_generations.c.created)
            .limit(limit)
        )
        return [row.id for row in await self._read(query)]

    async def delete(self, generation_id: str) -> bool:
        """See Records."""
        async with _transaction(self._writer) as connection:
            result = await connection.execute(delete(_generations).where(_generations.c.id == generation_id))
        return result.rowcount > 0

    async def ping(self) -> None:
        """See Records."""
        await self._read(select(_schema.c.version))

    async def close(self) -> None:
        """See Records."""
        await self._reader.dispose()
        await self._writer.dispose()

    async def _read(self, query: Executable) -> Sequence[Row[Any]]:
        async with _transaction(self._reader) as connection:
            return (await connection.execute(query)).all()


def _columns(generation: Generation, lease_until: float | None) -> dict[str, Any]:
    return {
        "owner": generation.spec.owner,
        "status": generation.status,
        "created": generation.created,
        "finished": generation.finished,
        "lease_until": lease_until,
        "record": pydantic_core.to_json(generation, inf_nan_mode="strings").decode(),
    }


def _json(data: Mapping[str, Any]) -> str:
    """`data` as JSON; numbers that JSON cannot say (NaN, infinities) become null."""
    return pydantic_core.to_json(data, inf_nan_mode="null").decode()


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """Commits at the end, rolls back on any error; the database's own become StoreUnavailable."""
    try:
        async with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise StoreUnavailable("the database cannot be reached or has no room left") from error


def _engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """For reading and for writing: one and the same except for a SQLite file, which has one writer at a time."""
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() != "sqlite":
        engine = create_async_engine(url, pool_pre_ping=True)
        return engine, engine
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
