"""SQL store of generations and their event logs.

It owns the transactions; product rules live in the service.

A generation is one row: its record as JSON, and the columns that queries need. One statement locks the row, checks the
claim token and assigns event numbers. Numbers therefore have no gaps under concurrent writers, and a process that lost
its claim writes nothing.

Leases use PostgreSQL's clock; on SQLite, the machine's monotonic clock, so wall-clock jumps expire no claim. All other
times come from the database's wall clock, see `clock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import pydantic_core
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    and_,
    bindparam,
    func,
    make_url,
    or_,
    select,
    text,
    true,
    update,
)

from app.domain import Event, EventKind, Generation, Progress
from app.stores import codec
from app.stores.api_keys import QuotaRefused, charge_quota, quota_used
from app.stores.clock import DatabaseClock
from app.stores.connections import Connections, DatabaseOptions
from app.stores.generations.queries import (
    FINAL,
    OPEN,
    claimable_models,
    not_in_active_batch,
    older_than,
    oldest_claimable,
    page,
    unattended,
)
from app.stores.generations.writes import KeyTaken, RowWriter
from app.stores.migrations import migrate
from app.stores.protocols import (
    Claim,
    Claimable,
    Claimed,
    Held,
    IdempotencyMatch,
    KeyRecord,
    ListQuery,
    NewEvent,
    PageMark,
    QueueFull,
    QuotaCharge,
    QuotaUsage,
)
from app.stores.schema import events, generations, idempotency, identity

_MIGRATION_LOCK = 4_650_318
_QUEUE_LOCK = 4_650_319
_IDS_PER_STATEMENT = 500


class SqlGenerationStore:
    """`GenerationStore` over SQLAlchemy; use it in the event loop that opened it."""

    def __init__(self, connections: Connections, monotonic: Callable[[], float]) -> None:
        self._connections = connections
        self._clock = DatabaseClock(connections)
        self.rows = RowWriter(connections, self._clock, monotonic)
        self._notifying = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        options: DatabaseOptions | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Connect and migrate the tables.

        `url` is `sqlite:///folder/file` (the folder must exist), `sqlite://` (in memory, until closed) or
        `postgresql://user@host/name`, to which `options` apply. `monotonic` times leases on SQLite. Raises
        StoreUnavailable, also when a later release created the database.
        """
        store = cls(await Connections.open(make_url(url), options or DatabaseOptions()), monotonic)
        try:
            await store._prepare()
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def connections(self) -> Connections:
        """The connections, for other stores in the same database."""
        return self._connections

    async def _prepare(self) -> None:
        def prepare(connection: Connection) -> None:
            if self._connections.postgresql:
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            migrate(connection)

        await self._connections.write(prepare)
        await self.now()

    def clock(self) -> float:
        """See GenerationStore."""
        return self._clock.time()

    async def now(self) -> float:
        """See GenerationStore."""
        return await self._clock.ask()

    async def create(
        self,
        generation: Generation,
        lines: Sequence[NewEvent],
        claim: Claim | None,
        key: KeyRecord | None = None,
        *,
        charge: QuotaCharge | None = None,
        room: int | None = None,
    ) -> IdempotencyMatch | QuotaUsage | None:
        """See GenerationStore."""

        def insert_all(connection: Connection) -> QuotaUsage | None:
            if room is not None and self._unclaimed(connection) + generation.spec.n_candidates > room:
                raise QueueFull
            self.rows.insert(connection, generation, lines, claim)
            if key is not None:
                self.rows.take_key(connection, key, generation.id)
            if claim is None:
                self.rows.notify(connection, "")
            return charge_quota(connection, generation.id, charge) if charge is not None else None

        while True:
            try:
                alone = key is not None or charge is not None or room is not None
                return await self._connections.write(insert_all, grouped=not alone)
            except QuotaRefused as refused:
                return refused.usage
            except KeyTaken:
                assert key is not None
                earlier = await self.find_idempotent(key.owner, key.key)
                if earlier is not None:
                    return earlier

    def _unclaimed(self, connection: Connection) -> int:
        """Unclaimed candidates of open generations; locked until the transaction ends."""
        if self._connections.postgresql:
            connection.execute(select(func.pg_advisory_xact_lock(_QUEUE_LOCK)))
        waiting = select(func.coalesce(func.sum(generations.c.candidates), 0)).where(
            generations.c.status.in_(OPEN), generations.c.lease_until.is_(None), generations.c.batch.is_(None)
        )
        return int(connection.execute(waiting).scalar_one())

    async def save(self, generation: Generation, lines: Sequence[NewEvent], claim: Claim) -> bool:
        """See GenerationStore."""
        ends, columns = generation.status.is_final, codec.columns(generation)
        notify, delivered = (generation.id, generation.delivered) if ends else (None, None)
        refunds = delivered is not None and delivered < generation.spec.n_candidates

        def write(connection: Connection) -> bool:
            return self.rows.advance_own(connection, generation.id, claim, columns, lines, notify, delivered, ends=ends)

        return await self._connections.write(write, grouped=generation.batch is None and not refunds)

    async def append(
        self, generation_id: str, lines: Sequence[NewEvent], claim: Claim, progress: Progress | None = None
    ) -> bool:
        """See GenerationStore."""
        columns = codec.progress_columns(progress) if progress is not None else {}
        return await self._connections.write(
            lambda connection: self.rows.advance_own(connection, generation_id, claim, columns, lines), grouped=True
        )

    async def prolong(self, held: Mapping[str, tuple[Claim, Progress]]) -> set[str]:
        """See GenerationStore."""
        tokens = [claim.token for claim, _ in held.values()]
        lease_s = max(claim.lease_s for claim, _ in held.values())
        row = generations.c
        extend = (
            update(generations)
            .where(row.id.in_(list(held)), row.claim.in_(tokens))
            .values(lease_until=self.rows.now() + lease_s)
            .returning(row.id)
        )

        def write(connection: Connection) -> set[str]:
            kept = {found.id for found in connection.execute(extend)}
            told = [{"of": name, **codec.progress_columns(held[name][1])} for name in sorted(kept)]
            if told:
                connection.execute(update(generations).where(row.id == bindparam("of")), told)
            return kept

        return await self._connections.write(write, grouped=True)

    async def look(self, generation_ids: Collection[str], span_s: float) -> dict[str, Held]:
        """See GenerationStore."""
        row = generations.c
        watched = func.coalesce(row.watched.between(self.rows.now() - span_s, self.rows.now()), False)
        query = select(row.id, row.claim, watched.label("wanted")).where(row.id.in_(list(generation_ids)))
        return {found.id: Held(found.claim, bool(found.wanted)) for found in await self._read(query)}

    async def record_watch(self, generation_id: str) -> None:
        """See GenerationStore."""
        row = generations.c
        asked = update(generations).where(row.id == generation_id, row.status.in_(OPEN))
        await self._connections.write(lambda connection: connection.execute(asked.values(watched=self.rows.now())))

    async def release(self, generation: Generation, claim: Claim, lines: Sequence[NewEvent] = ()) -> bool:
        """See GenerationStore."""
        columns = codec.columns(generation) | self.rows.lease(None) | {"claims": generations.c.claims - 1}
        return await self._write(generation.id, columns, lines, generations.c.claim == claim.token, notify="")

    async def settle(
        self, generation: Generation, lines: Sequence[NewEvent], *, unattended_s: float | None = None
    ) -> bool:
        """See GenerationStore."""
        columns = codec.columns(generation) | self.rows.lease(None)
        lapsed = true() if unattended_s is None else unattended(self.rows.now(), unattended_s)
        allowed = and_(generations.c.status.in_(OPEN), lapsed)
        told = {"notify": generation.id, "delivered": generation.delivered, "skip": True}
        return await self._write(generation.id, columns, lines, allowed, **told)

    async def _write(
        self,
        generation_id: str,
        columns: Mapping[str, Any],
        lines: Sequence[NewEvent],
        allowed: ColumnElement[bool],
        **told: Any,
    ) -> bool:
        """See `RowWriter.advance`."""
        return await self._connections.write(
            lambda connection: self.rows.advance(connection, generation_id, columns, lines, allowed, **told)
        )

    async def record_attendance(self, generation_id: str) -> None:
        """See GenerationStore."""
        row = generations.c
        seen = update(generations).where(row.id == generation_id, row.attended.is_not(None), row.status.in_(OPEN))
        await self._connections.write(lambda connection: connection.execute(seen.values(attended=self.rows.now())))

    async def list_unattended(self, span_s: float, limit: int = 100) -> list[str]:
        """See GenerationStore."""
        query = (
            select(generations.c.id)
            .where(generations.c.status.in_(OPEN), unattended(self.rows.now(), span_s))
            .limit(limit)
        )
        return [row.id for row in await self._read(query)]

    async def next_claimable(
        self, model: str, scorer: str | None, max_candidates: int, lease_s: float, weights: str | None = None
    ) -> Claimable | None:
        """See GenerationStore."""
        rows = await self._read(oldest_claimable(self.rows.now(), model, scorer, max_candidates, lease_s, weights))
        return Claimable(rows[0].id, rows[0].candidates) if rows else None

    async def waiting_models(self, lease_s: float) -> frozenset[str]:
        """See GenerationStore."""
        return frozenset(row.model for row in await self._read(claimable_models(self.rows.now(), lease_s)))

    async def claim(
        self,
        model: str,
        scorer: str | None,
        room: int,
        claim: Claim,
        *,
        max_candidates: int | None = None,
        weights: str | None = None,
    ) -> Claimed | None:
        """See GenerationStore."""
        table = generations.c
        oldest = oldest_claimable(self.rows.now(), model, scorer, max_candidates, claim.lease_s, weights)
        mine = oldest.with_only_columns(table.id).with_for_update(skip_locked=True).scalar_subquery()
        claim_oldest = (
            update(generations)
            .where(table.id == mine, table.candidates <= room)
            .values(self.rows.takeover(claim))
            .returning(table.record, table.claims, table.last_seq)
        )
        row = await self._connections.write(lambda connection: connection.execute(claim_oldest).first())
        return Claimed(codec.decode(row.record), row.claims, row.last_seq) if row is not None else None

    async def find_idempotent(self, owner: str, key: str) -> IdempotencyMatch | None:
        """See GenerationStore."""
        query = select(idempotency.c.generation_id, idempotency.c.fingerprint).where(
            idempotency.c.owner == owner, idempotency.c.key == key
        )
        rows = await self._read(query)
        return IdempotencyMatch(rows[0].generation_id, rows[0].fingerprint) if rows else None

    async def quota_used(self, key_id: str, window: int) -> int:
        """See GenerationStore."""
        return await self._connections.read(lambda connection: quota_used(connection, key_id, window))

    async def get(self, generation_id: str) -> Generation | None:
        """See GenerationStore."""
        rows = await self._read(select(*codec.ROW).where(generations.c.id == generation_id))
        return codec.from_row(rows[0]) if rows else None

    async def find(self, query: ListQuery, after: PageMark | None, limit: int) -> list[Generation]:
        """See GenerationStore."""
        return [codec.from_row(row) for row in await self._read(page(query, after, limit))]

    async def existing_ids(self, generation_ids: Collection[str]) -> set[str]:
        """See GenerationStore."""
        requested, found = list(generation_ids), set[str]()
        for start in range(0, len(requested), _IDS_PER_STATEMENT):
            query = select(generations.c.id).where(generations.c.id.in_(requested[start : start + _IDS_PER_STATEMENT]))
            found |= {row.id for row in await self._read(query)}
        return found

    async def database_id(self) -> str:
        """See GenerationStore."""
        return str((await self._read(select(identity.c.id)))[0].id)

    async def events(self, generation_id: str, after: int, limit: int = 500) -> list[Event]:
        """See GenerationStore."""
        query = (
            select(events.c.seq, events.c.kind, events.c.data, events.c.created)
            .where(events.c.generation_id == generation_id, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(limit)
        )
        rows = await self._read(query)
        return [Event(row.seq, EventKind(row.kind), pydantic_core.from_json(row.data), row.created) for row in rows]

    async def list_expired(self, created_before: float, limit: int = 100) -> list[str]:
        """See GenerationStore."""
        table = generations.c
        query = older_than(created_before, and_(table.status.in_(FINAL), table.batch.is_(None)), limit)
        return [row.id for row in await self._read(query)]

    async def list_abandoned(self, created_before: float, limit: int = 100) -> list[str]:
        """See GenerationStore."""
        table = generations.c
        idle = or_(table.lease_until.is_(None), table.lease_until < self.rows.now())
        query = older_than(
            created_before, and_(table.status.in_(OPEN), idle, not_in_active_batch(created_before)), limit
        )
        return [row.id for row in await self._read(query)]

    async def delete(self, generation_id: str) -> bool:
        """See GenerationStore."""
        return await self._connections.write(lambda connection: self.rows.delete(connection, generation_id))

    @property
    def notifies(self) -> bool:
        """See GenerationStore."""
        return self._notifying

    async def listen(self, notify: Callable[[str], None]) -> None:
        """See GenerationStore."""
        if self._connections.postgresql:
            await self._connections.listen(notify, self._set_notifying)

    async def ping(self) -> None:
        """See GenerationStore."""
        await self._read(text("SELECT 1 FROM alembic_version"))
        await self._connections.instruments.check("database_write", self._probe_write)

    async def _probe_write(self) -> None:
        """Write and restore; SQLite skips writing pages without changes."""

        def change(connection: Connection) -> None:
            connection.execute(update(identity).values(id=identity.c.id + " "))
            connection.execute(update(identity).values(id=func.trim(identity.c.id)))

        await self._connections.write(change)

    async def close(self) -> None:
        """See GenerationStore."""
        await self._connections.close()

    def _set_notifying(self, notifying: bool) -> None:
        self._notifying = notifying

    async def _read(self, query: Executable) -> Sequence[Row[Any]]:
        return await self._connections.read(lambda connection: connection.execute(query).all())
