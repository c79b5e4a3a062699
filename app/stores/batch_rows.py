"""Rows of batches: their records, the states of their entries, and their end."""

from __future__ import annotations

from typing import Any

import pydantic_core
from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, func, select, update

from app.domain import Batch, BatchCounts, Status
from app.stores.schema import batches, generations

_batch = TypeAdapter(Batch)
_COLUMNS = {"id", "owner", "created", "entries", "cancelled", "finished", "status"}
"""Fields of a batch that are columns; the rest is its record."""

_OPEN = [status.value for status in Status if not status.is_final]


def encode(batch: Batch) -> dict[str, Any]:
    """The columns that a batch determines."""
    columns = {name: getattr(batch, name) for name in _COLUMNS}
    record = pydantic_core.to_json(batch, exclude=_COLUMNS).decode()
    return {**columns, "refused": len(batch.refused), "record": record}


def decode(connection: Connection, row: Row[*tuple[Any, ...]]) -> tuple[Batch, BatchCounts]:
    """The batch of a row, with the states of its entries."""
    fields = {name: getattr(row, name) for name in _COLUMNS}
    batch = _batch.validate_python({**pydantic_core.from_json(row.record), **fields})
    return batch, count_entries(connection, row.id, row.entries, row.refused)


def count_entries(connection: Connection, batch_id: str, entries: int, refused: int) -> BatchCounts:
    """The states of a batch's entries; `refused` ones never became generations."""
    table = generations.c
    query = select(table.status, func.count()).where(table.batch == batch_id).group_by(table.status)
    found = {Status(status): int(count) for status, count in connection.execute(query)}
    return BatchCounts(
        total=entries,
        queued=found.get(Status.QUEUED, 0),
        running=found.get(Status.RUNNING, 0),
        succeeded=found.get(Status.SUCCEEDED, 0),
        failed=found.get(Status.FAILED, 0),
        cancelled=found.get(Status.CANCELLED, 0),
        refused=refused,
        deleted=entries - refused - sum(found.values()),
    )


def close_batch(connection: Connection, batch_id: str, now: float) -> None:
    """End the batch if no entry is open, and make its webhook due.

    The batch's row is locked first: of concurrent transactions that end its last entries, the later one sees both.
    """
    locked = select(batches).where(batches.c.id == batch_id, batches.c.finished.is_(None)).with_for_update()
    batch = connection.execute(locked).first()
    still_open = select(generations.c.id).where(generations.c.batch == batch_id, generations.c.status.in_(_OPEN))
    if batch is None or connection.execute(still_open.limit(1)).first() is not None:
        return
    counts = count_entries(connection, batch_id, batch.entries, batch.refused)
    status = counts.final_status(cancelled=batch.cancelled is not None)
    change = update(batches).where(batches.c.id == batch_id)
    due = 0.0 if batch.webhook_host is not None else None
    connection.execute(change.values(finished=now, status=status, webhook_due=due))
