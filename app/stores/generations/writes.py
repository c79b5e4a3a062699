"""Writes to the rows of generations, inside a transaction of the caller.

See `store` for what one statement guarantees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Insert,
    Integer,
    Row,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

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

SEQ_BLOCK = 2**20
"""Event numbers left to a process whose claim is lost.

It may have shown events that it never stored.
"""


class KeyTaken(Exception):
    """Another generation holds the idempotency key; rolls the transaction back."""


class RowWriter:
    """Writes rows, their logs and notifications. `monotonic` times leases on SQLite."""

    def __init__(self, connections: Connections, clock: DatabaseClock, monotonic: Callable[[], float]) -> None:
        self._postgresql = connections.postgresql
        self._clock = clock
        self._monotonic = monotonic
        self._append: Any = None

    def now(self) -> Time:
        """The time of leases."""
        return POSTGRESQL_NOW if self._postgresql else self._monotonic()

    def lease(self, claim: Claim | None) -> dict[str, Any]:
        """The columns of a claim, or of none."""
        if claim is None:
            return {"claim": None, "lease_until": None, "lease_s": None}
        return {"claim": claim.token, "lease_until": self.now() + claim.lease_s, "lease_s": claim.lease_s}

    def takeover(self, claim: Claim) -> dict[str, Any]:
        """The columns of a claim of a free generation."""
        row = generations.c
        skipped = case((row.claims > 0, SEQ_BLOCK), else_=0)
        return {"claims": row.claims + 1, "last_seq": row.last_seq + skipped, **self.lease(claim)}

    def notify(self, connection: Connection, payload: str) -> None:
        """Notify listeners when the transaction commits."""
        if self._postgresql:
            connection.execute(notify_statement(payload))

    def insert(
        self, connection: Connection, generation: Generation, lines: Sequence[NewEvent], claim: Claim | None
    ) -> None:
        """Insert a generation with its first events and its webhook."""
        row = {"id": generation.id, "last_seq": len(lines), "claims": int(claim is not None), "charged": 0}
        row |= codec.columns(generation) | _claim_columns(claim) | self._times(claim)
        if generation.attended and not self._postgresql:
            row["attended"] = self._monotonic()
        at_server = self._postgresql and claim is not None, self._postgresql and generation.attended
        connection.execute(_insertion(*at_server), row)
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
        skip: bool = False,
    ) -> bool:
        """Update one row if `allowed`, append to its log, and settle the charge if given.

        `notify` is sent, if given. With `skip`, numbers that a claim's holder may have used are left out.
        The last entry of a batch to end closes the batch, unless `closes` is False. A transaction with several rows
        locks the batch after all of them, so that no two transactions wait for each other.
        """
        change = (
            update(generations)
            .where(generations.c.id == generation_id, allowed)
            .values(last_seq=_last_seq(lines, skip=skip), **columns)
            .returning(*_RETURNED)
        )
        row = connection.execute(change).first()
        if row is None:
            return False
        self._complete(connection, row, lines, notify, delivered)
        if closes and row.batch is not None and columns.get("status") in FINAL:
            close_batch(connection, row.batch, self._clock.time())
        return True

    def advance_own(
        self,
        connection: Connection,
        generation_id: str,
        claim: Claim,
        columns: Mapping[str, Any],
        lines: Sequence[NewEvent],
        notify: str | None = None,
        delivered: int | None = None,
        *,
        ends: bool = False,
    ) -> bool:
        """`advance` of a generation under `claim`, which is extended, or ends with it.

        The statement is built once, since it is the most frequent one. `columns` hold no expressions.
        """
        numbered = bool(lines) and lines[-1].seq is not None
        given = {**columns, **_claim_columns(None if ends else claim), **self._times(None if ends else claim)}
        given |= {"last_seq": lines[-1].seq} if numbered else {"more": len(lines)}
        statement = _own_update(at_server=self._postgresql and not ends, numbered=numbered)
        row = connection.execute(statement, {**given, "of": generation_id, "token": claim.token}).first()
        if row is None:
            return False
        self._complete(connection, row, lines, notify, delivered)
        if ends and row.batch is not None:
            close_batch(connection, row.batch, self._clock.time())
        return True

    def _times(self, claim: Claim | None) -> dict[str, Any]:
        """When the lease ends, or its length for the server's clock to be added."""
        if claim is None:
            return {"lease_until": None}
        if self._postgresql:
            return {"lease": claim.lease_s}
        return {"lease_until": self._monotonic() + claim.lease_s}

    def _complete(
        self,
        connection: Connection,
        row: Row[*tuple[Any, ...]],
        lines: Sequence[NewEvent],
        notify: str | None,
        delivered: int | None,
    ) -> None:
        """What follows the update of a row, which returned `_RETURNED`."""
        self.log(connection, row.id, row.last_seq - len(lines) + 1, lines)
        if notify is not None:
            self.notify(connection, notify)
        if delivered is not None:
            refund_quota(connection, row, delivered)

    def log(self, connection: Connection, generation_id: str, first: int, lines: Sequence[NewEvent]) -> None:
        """Append events; those without a number are numbered from `first`.

        A write whose answer was lost may be repeated with the same numbers.
        """
        now = self._clock.time()
        rows = [
            {
                "generation_id": generation_id,
                "seq": seq if e.seq is None else e.seq,
                "kind": e.kind,
                "data": codec.to_json(e.data),
                "created": now if e.created is None else e.created,
            }
            for seq, e in enumerate(lines, first)
        ]
        if rows:
            if self._append is None:  # built once: that takes longer than the statement
                self._append = dialect_insert(connection, events).on_conflict_do_nothing()
            connection.execute(self._append, rows)

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


_RETURNED = generations.c.last_seq, generations.c.batch, *CHARGE_COLUMNS


def _claim_columns(claim: Claim | None) -> dict[str, Any]:
    """The columns of a claim or of none, without its end."""
    return {"claim": None, "lease_s": None} if claim is None else {"claim": claim.token, "lease_s": claim.lease_s}


@cache
def _insertion(lease_at_server: bool, attended_at_server: bool) -> Insert:
    """The insertion of a row; the server's clock sets the times that are its own."""
    times: dict[str, Any] = {}
    if lease_at_server:
        times["lease_until"] = POSTGRESQL_NOW + bindparam("lease", type_=Double)
    if attended_at_server:
        times["attended"] = POSTGRESQL_NOW
    return insert(generations).values(times) if times else insert(generations)


@cache
def _own_update(*, at_server: bool, numbered: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    """The update of a row under a claim; the columns come with the parameters."""
    row = generations.c
    set_: dict[str, Any] = {}
    if at_server:
        set_["lease_until"] = POSTGRESQL_NOW + bindparam("lease", type_=Double)
    if not numbered:
        set_["last_seq"] = row.last_seq + bindparam("more", type_=Integer)
    mine = update(generations).where(row.id == bindparam("of"), row.claim == bindparam("token"))
    return (mine.values(set_) if set_ else mine).returning(*_RETURNED)


def _last_seq(lines: Sequence[NewEvent], *, skip: bool) -> ColumnElement[int] | int:
    """The number of the last event after these."""
    row = generations.c
    if lines and lines[-1].seq is not None:
        return lines[-1].seq
    skipped = case((row.lease_until.is_not(None), SEQ_BLOCK), else_=0) if skip else 0
    return row.last_seq + len(lines) + skipped
