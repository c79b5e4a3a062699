"""Webhook outbox: one row per requested webhook.

The row is created with its generation and deleted after delivery. A batch's webhook is in its own row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Column, Connection, Row, ScalarSelect, Select, delete, func, select, tuple_, update

from app.domain import BATCH_PREFIX, Status, Webhook
from app.stores import batch_rows, codec
from app.stores.connections import Connections
from app.stores.protocols import DeliveryLimits, EndedBatch, PendingDelivery
from app.stores.schema import batches, generations, webhooks


def _generation_column(column: Column[Any]) -> ScalarSelect[Any]:
    """A column of the webhook's generation, by id lookup.

    With a join, SQLite scans all generations instead.
    """
    return select(column).where(generations.c.id == webhooks.c.generation_id).scalar_subquery()


_ENDED = _generation_column(generations.c.status).in_([status.value for status in Status if status.is_final])


def outbox_row(generation_id: str, webhook: Webhook) -> dict[str, Any]:
    """The outbox row of a requested webhook, written with its generation."""
    return {"generation_id": generation_id, "attempts": 0, "due": 0.0, "host": webhook_host(webhook.url)}


def webhook_host(url: str) -> str:
    """The host of a webhook's URL."""
    return (urlsplit(url).hostname or "").rstrip(".")[:255]


class SqlWebhookOutbox:
    """`WebhookOutbox` over the connections of `SqlGenerationStore`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def lease_due(
        self, now: float, lease_s: float, limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]
    ) -> list[PendingDelivery]:
        """See WebhookOutbox."""
        candidates = _due_candidates(now, limits, in_flight)
        record = _generation_column(generations.c.record)

        def lease(connection: Connection) -> list[PendingDelivery]:
            names = _select_fairly(connection.execute(candidates).all(), limits, in_flight)
            ready = (
                select(webhooks, record.label("record"))
                .where(webhooks.c.generation_id.in_(names), webhooks.c.due <= now)
                .with_for_update(of=webhooks, skip_locked=True)
            )
            rows = {row.generation_id: row for row in connection.execute(ready)}
            connection.execute(update(webhooks).where(webhooks.c.generation_id.in_(rows)).values(due=now + lease_s))
            leased = (rows[name] for name in names if name in rows)
            found = [PendingDelivery(codec.decode(row.record), row.attempts, row.host) for row in leased]
            lanes = [*in_flight, *(one.lane for one in found)]
            return found + _lease_batches(connection, now, lease_s, limits, lanes)

        return await self._connections.write(lease)

    async def reschedule(self, subject_id: str, due: float, attempts: int) -> None:
        """See WebhookOutbox."""
        table = webhooks.c
        change = update(webhooks).where(table.generation_id == subject_id).values(due=due, attempts=attempts)
        batch = update(batches).where(batches.c.id == subject_id).values(webhook_due=due, webhook_attempts=attempts)
        await self._connections.write(lambda c: c.execute(batch if subject_id.startswith(BATCH_PREFIX) else change))

    async def remove(self, subject_id: str) -> None:
        """See WebhookOutbox."""
        gone = delete(webhooks).where(webhooks.c.generation_id == subject_id)
        batch = update(batches).where(batches.c.id == subject_id).values(webhook_due=None)
        await self._connections.write(lambda c: c.execute(batch if subject_id.startswith(BATCH_PREFIX) else gone))

    async def count_pending(self) -> int:
        """See WebhookOutbox."""
        ended = select(func.count()).select_from(webhooks).where(_ENDED)
        of_batches = select(func.count()).select_from(batches).where(batches.c.webhook_due.is_not(None))
        return await self._connections.read(lambda c: sum(int(c.execute(q).scalar_one()) for q in (ended, of_batches)))


def _lease_batches(
    connection: Connection, now: float, lease_s: float, limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]
) -> list[PendingDelivery]:
    """Lease due webhooks of ended batches, oldest first, at most `per_host` at once.

    Owners and hosts at their limit are left out.
    """
    room = min(limits.per_host, limits.total - len(in_flight))
    if room <= 0:
        return []
    owners, lanes = _at_limit(limits, in_flight)
    row = batches.c
    due = select(batches).where(row.webhook_due <= now).order_by(row.webhook_due).limit(room)
    due = due.where(row.owner.not_in(owners), tuple_(row.owner, row.webhook_host).not_in(lanes))
    rows = connection.execute(due.with_for_update(skip_locked=True)).all()
    names = [row.id for row in rows]
    if names:
        connection.execute(update(batches).where(batches.c.id.in_(names)).values(webhook_due=now + lease_s))
    ended = [EndedBatch(*batch_rows.decode(connection, row)) for row in rows]
    return [PendingDelivery(one, row.webhook_attempts, row.webhook_host) for one, row in zip(ended, rows, strict=True)]


def _at_limit(limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Owners, and pairs of owner and host, that have their limit of attempts."""
    owners = [name for name, count in Counter(name for name, _ in in_flight).items() if count >= limits.per_owner]
    return owners, [lane for lane, count in Counter(in_flight).items() if count >= limits.per_host]


def _due_candidates(now: float, limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]) -> Select[Any]:
    """The first due webhooks of every owner and host below its limit.

    Within an owner, hosts alternate.
    """
    owner = _generation_column(generations.c.owner)
    owners, lanes = _at_limit(limits, in_flight)
    age = (webhooks.c.due, webhooks.c.generation_id)
    by_host = (
        select(
            webhooks.c.generation_id,
            webhooks.c.due,
            webhooks.c.host,
            owner.label("owner"),
            func.row_number().over(partition_by=(owner, webhooks.c.host), order_by=age).label("of_host"),
        )
        .where(webhooks.c.due <= now, _ENDED)
        .where(owner.not_in(owners), tuple_(owner, webhooks.c.host).not_in(lanes))
        .subquery()
    )
    place = func.row_number().over(
        partition_by=by_host.c.owner, order_by=(by_host.c.of_host, by_host.c.due, by_host.c.generation_id)
    )
    by_owner = select(by_host, place.label("of_owner")).where(by_host.c.of_host <= limits.per_host).subquery()
    return (
        select(by_owner)
        .where(by_owner.c.of_owner <= limits.per_owner)
        .order_by(by_owner.c.of_owner, by_owner.c.due, by_owner.c.generation_id)
        .limit(limits.total)
    )


def _select_fairly(rows: Sequence[Row[Any]], limits: DeliveryLimits, in_flight: Sequence[tuple[str, str]]) -> list[str]:
    """Ids of the generations to deliver now; owners with the fewest attempts first."""
    owners, lanes = Counter(name for name, _ in in_flight), Counter(in_flight)
    room, taken = limits.total - len(in_flight), list[str]()
    turn = {row.generation_id: (owners[row.owner] + row.of_owner, row.due) for row in rows}
    for row in sorted(rows, key=lambda row: turn[row.generation_id]):
        lane = (row.owner, row.host)
        if len(taken) < room and owners[row.owner] < limits.per_owner and lanes[lane] < limits.per_host:
            taken.append(row.generation_id)
            owners[row.owner] += 1
            lanes[lane] += 1
    return taken
