"""Writes to the rows of generations, inside a transaction of the caller.

See `store` for what one statement guarantees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from app.domain import Generation
from app.stores import codec
from app.stores.api_keys import CHARGE_COLUMNS, refund_quota
from app.stores.batch_rows import close_batch
from app.stores.clock import POSTGRESQL_NOW, DatabaseClock
from app.stores.connections import Connections, dialect_insert, notify_statement
from app.stores.generations.queries import FINAL, OPEN, Time
from app.stores.protocols import Claim, KeyRecord, NewEvent
from app.stores.schema import events, generations, idempotency, webhooks
from app.stores.webhooks import outbox_row


class KeyTaken(Exception):
    """Another generation holds the idempotency key; rolls the transaction back."""


class RowWriter:
    """Writes rows, their logs and notifications. `monotonic` times leases on SQLite."""

    def __init__(self, connections: Connections, clock: DatabaseClock, monotonic: Callable[[], float]) -> None:
        self._postgresql = connections.postgresql
        self._clock = clock
        self._monotonic = monotonic

    def now(self) -> Time:
        """The time of leases."""
        return POSTGRESQL_NOW if self._postgresql else self._monotonic()

    def lease(self, claim: Claim | None) -> dict[str, Any]:
        """The columns of a claim, or of none."""
        if claim is None:
            return {"claim": None, "lease_until": None, "lease_s": None}
        return {"claim": claim.token, "lease_until": self.now() + claim.lease_s, "lease_s": claim.lease_s}

    def notify(self, connection: Connection, payload: str) -> None:
        """Notify listeners when the transaction commits."""
        if self._postgresql:
            connection.execute(notify_statement(payload))

    def insert(
        self, connection: Connection, generation: Generation, lines: Sequence[NewEvent], claim: Claim | None
    ) -> None:
        """Insert a generation with its first events and its webhook."""
        row = {"id": generation.id, "last_seq": len(lines), "claims": int(claim is not None), "charged": 0}
        row |= codec.columns(generation) | self.lease(claim)
        row["attended"] = self.now() if generation.attended else None
        connection.execute(insert(generations).values(row))
        self.log(connection, generation.id, 1, lines)
        if generation.webhook is not None and not generation.status.is_final:
            connection.execute(insert(webhooks), outbox_row(generation.id, generation.webhook))

    def take_key(self, connection: Connection, key: KeyRecord, generation_id: str) -> None:
        """Store an idempotency key. Raises KeyTaken."""
        row = {"owner": key.owner, "key": key.key, "fingerprint": key.fingerprint, "generation_id": generation_id}
        taken = dialect_insert(connection, idempotency).values(row)
        taken = taken.on_conflict_do_update(
            index_elements=[idempotency.c.owner, idempotency.c.key],
            set_={"fingerprint": key.fingerprint, "generation_id": generation_id},
            where=idempotency.c.generation_id == key.replaces,
        )
        inserted = connection.execute(taken)
        if inserted.rowcount == 0:
            raise KeyTaken

    def advance(
        self,
        connection: Connection,
        generation_id: str,
        columns: Mapping[str, Any],
        lines: Sequence[NewEvent],
        allowed: ColumnElement[bool],
        notify: str | None = None,
        delivered: int | None = None,
        *,
        closes: bool = True,
    ) -> bool:
        """Update one row if `allowed`, append to its log, and settle the charge if given.

        The last entry of a batch to end closes the batch, unless `closes` is False. A transaction with several rows
        locks the batch after all of them, so that no two transactions wait for each other.
        """
        change = (
            update(generations)
            .where(generations.c.id == generation_id, allowed)
            .values(last_seq=generations.c.last_seq + len(lines), **columns)
            .returning(generations.c.last_seq, generations.c.batch, *CHARGE_COLUMNS)
        )
        row = connection.execute(change).first()
        if row is None:
            return False
        self.log(connection, generation_id, row.last_seq - len(lines) + 1, lines)
        if lines or notify is not None:
            self.notify(connection, generation_id if notify is None else notify)
        if delivered is not None:
            refund_quota(connection, row, delivered)
        if closes and row.batch is not None and columns.get("status") in FINAL:
            close_batch(connection, row.batch, self._clock.time())
        return True

    def log(self, connection: Connection, generation_id: str, first: int, lines: Sequence[NewEvent]) -> None:
        """Append events, numbered from `first`."""
        now = self._clock.time()
        rows = [
            {"generation_id": generation_id, "seq": seq, "kind": e.kind, "data": codec.to_json(e.data), "created": now}
            for seq, e in enumerate(lines, first)
        ]
        if rows:
            connection.execute(insert(events), rows)

    def delete(self, connection: Connection, generation_id: str) -> bool:
        """Delete a row with its log and key, and refund an open one's charge."""
        row = generations.c
        self._pass_key_on(connection, generation_id)
        remove = delete(generations).where(row.id == generation_id).returning(row.status, row.batch, *CHARGE_COLUMNS)
        deleted = connection.execute(remove).first()
        if deleted is not None and deleted.status in OPEN:
            refund_quota(connection, deleted, 0)
            if deleted.batch is not None:
                close_batch(connection, deleted.batch, self._clock.time())
        self.notify(connection, generation_id)
        return deleted is not None

    def _pass_key_on(self, connection: Connection, generation_id: str) -> None:
        """Move the key of a batch from an entry that is deleted to another one."""
        row = generations.c
        batch = connection.execute(select(row.batch).where(row.id == generation_id)).scalar()
        if batch is None:
            return
        other = select(func.min(row.id)).where(row.batch == batch, row.id != generation_id)
        found = connection.execute(other).scalar()
        if found is not None:
            key = update(idempotency).where(idempotency.c.generation_id == generation_id)
            connection.execute(key.values(generation_id=found))
