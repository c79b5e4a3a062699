"""SQL store of batches.

An entry is a row of `generations` with the batch's id: claims, leases, logs and charges are those of any generation.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, literal, select, tuple_, update

from app.domain import Batch, BatchCounts, BatchEntry, Generation, Status
from app.stores import batch_rows, codec
from app.stores.api_keys import QuotaRefused, charge_batch
from app.stores.generations.queries import OPEN, first_entry, is_free
from app.stores.generations.store import SqlGenerationStore
from app.stores.generations.writes import KeyTaken
from app.stores.protocols import (
    Claim,
    Claimable,
    Claimed,
    IdempotencyMatch,
    KeyRecord,
    NewEvent,
    PageMark,
    QuotaCharge,
    QuotaUsage,
)
from app.stores.schema import batches, generations
from app.stores.webhooks import webhook_host


class SqlBatchStore:
    """`BatchStore` beside a store of generations, whose connections it uses."""

    def __init__(self, records: SqlGenerationStore) -> None:
        self._records = records
        self._connections = records.connections
        self._rows = records.rows

    async def create(
        self,
        batch: Batch,
        entries: Sequence[tuple[Generation, Sequence[NewEvent]]],
        key: KeyRecord | None,
        charge: QuotaCharge | None,
    ) -> IdempotencyMatch | QuotaUsage | None:
        """See BatchStore."""
        host = webhook_host(batch.webhook.url) if batch.webhook is not None else None
        row = {**batch_rows.encode(batch), "served": 0.0, "webhook_host": host, "webhook_attempts": 0}

        def insert_all(connection: Connection) -> QuotaUsage | None:
            connection.execute(insert(batches).values(row))
            for generation, lines in entries:
                self._rows.insert(connection, generation, lines, None)
            if key is not None:
                self._rows.take_key(connection, key, entries[0][0].id)
            self._rows.notify(connection, "")
            return charge_batch(connection, batch.id, charge) if charge is not None else None

        while True:
            try:
                return await self._connections.write(insert_all)
            except QuotaRefused as refused:
                return refused.usage
            except KeyTaken:
                assert key is not None
                earlier = await self._records.find_idempotent(key.owner, key.key)
                if earlier is not None:
                    return earlier

    async def get(self, batch_id: str) -> tuple[Batch, BatchCounts] | None:
        """See BatchStore."""

        def read(connection: Connection) -> tuple[Batch, BatchCounts] | None:
            row = connection.execute(select(batches).where(batches.c.id == batch_id)).first()
            return batch_rows.decode(connection, row) if row is not None else None

        return await self._connections.read(read)

    async def of_generation(self, generation_id: str) -> str | None:
        """See BatchStore."""
        query = select(generations.c.batch).where(generations.c.id == generation_id)
        return await self._connections.read(lambda connection: connection.execute(query).scalar_one_or_none())

    async def entries(self, batch_id: str) -> list[BatchEntry]:
        """See BatchStore."""
        row = generations.c
        query = select(row.batch_index, row.id, row.status, row.progress).where(row.batch == batch_id)
        query = query.order_by(row.batch_index)
        rows = await self._connections.read(lambda connection: connection.execute(query).all())
        return [BatchEntry(r.batch_index, r.id, Status(r.status), r.progress) for r in rows]

    async def find(self, owner: str, after: PageMark | None, limit: int) -> list[tuple[Batch, BatchCounts]]:
        """See BatchStore."""
        table = batches.c
        query = select(batches).where(table.owner == owner)
        if after is not None:
            query = query.where(tuple_(table.created, table.id) < tuple_(literal(after.created), literal(after.id)))
        query = query.order_by(table.created.desc(), table.id.desc()).limit(limit)
        return await self._connections.read(
            lambda connection: [batch_rows.decode(connection, row) for row in connection.execute(query).all()]
        )

    async def next_entry(
        self, model: str, scorer: str | None, room: int, lease_s: float, weights: str | None = None
    ) -> Claimable | None:
        """See BatchStore."""
        others = batches.alias()
        served = select(func.max(others.c.served)).where(others.c.owner == batches.c.owner).scalar_subquery()
        in_turn = select(batches.c.id).where(batches.c.finished.is_(None))
        in_turn = in_turn.order_by(served, batches.c.served, batches.c.created, batches.c.id)

        def read(connection: Connection) -> Claimable | None:
            for batch in connection.execute(in_turn).all():
                query = first_entry(batch.id, self._rows.now(), model, scorer, room, lease_s, weights)
                entry = connection.execute(query).first()
                if entry is not None:
                    return Claimable(entry.id, entry.candidates)
            return None

        return await self._connections.read(read)

    async def claim(self, generation_id: str, claim: Claim) -> Claimed | None:
        """See BatchStore."""
        table = generations.c
        free = is_free(self._rows.now(), claim.lease_s)
        take = (
            update(generations)
            .where(table.id == generation_id, table.status.in_(OPEN), free)
            .values(self._rows.takeover(claim))
            .returning(table.record, table.claims, table.last_seq, table.batch)
        )
        now = self._records.clock()

        def write(connection: Connection) -> Claimed | None:
            row = connection.execute(take).first()
            if row is None:
                return None
            connection.execute(update(batches).where(batches.c.id == row.batch).values(served=now))
            return Claimed(codec.decode(row.record), row.claims, row.last_seq)

        return await self._connections.write(write)

    async def mark_cancelled(self, batch_id: str) -> None:
        """See BatchStore."""
        mark = update(batches).where(
            batches.c.id == batch_id, batches.c.finished.is_(None), batches.c.cancelled.is_(None)
        )
        now = self._records.clock()
        await self._connections.write(lambda connection: connection.execute(mark.values(cancelled=now)))

    async def unclaimed(self, batch_id: str, limit: int = 500) -> list[Generation]:
        """See BatchStore."""
        table = generations.c
        query = select(*codec.ROW).where(table.batch == batch_id, table.status.in_(OPEN), table.lease_until.is_(None))
        rows = await self._connections.read(lambda connection: connection.execute(query.limit(limit)).all())
        return [codec.from_row(row) for row in rows]

    async def settle(self, ended: Sequence[Generation], lines: Sequence[NewEvent]) -> None:
        """See BatchStore."""
        waiting = generations.c.lease_until.is_(None) & generations.c.status.in_(OPEN)

        def write(connection: Connection) -> None:
            for one in ended:
                columns = codec.columns(one)
                self._rows.advance(connection, one.id, columns, lines, waiting, one.id, one.delivered, closes=False)
            for batch_id in {one.batch for one in ended if one.batch is not None}:
                batch_rows.close_batch(connection, batch_id, self._records.clock())

        await self._connections.write(write)

    async def delete(self, batch_id: str) -> None:
        """See BatchStore."""

        def write(connection: Connection) -> None:
            connection.execute(delete(generations).where(generations.c.batch == batch_id))
            connection.execute(delete(batches).where(batches.c.id == batch_id))

        await self._connections.write(write)

    async def list_expired(self, finished_before: float, limit: int = 20) -> list[str]:
        """See BatchStore."""
        query = select(batches.c.id).where(batches.c.finished < finished_before).limit(limit)
        rows = await self._connections.read(lambda connection: connection.execute(query).all())
        return [row.id for row in rows]
