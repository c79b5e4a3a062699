"""The outbox of webhooks: one row a generation that asked for one, written with it and gone when it was delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Column, Connection, Row, ScalarSelect, Select, delete, func, select, tuple_, update

from app.domain import Status, Webhook
from app.stores import codec
from app.stores.connections import Connections
from app.stores.protocols import Attempts, PendingDelivery
from app.stores.schema import generations, webhooks


def _of_its_generation(column: Column[Any]) -> ScalarSelect[Any]:
    """A column of a webhook's generation, looked up by its id. In a join, SQLite walks all generations instead."""
    return select(column).where(generations.c.id == webhooks.c.generation_id).scalar_subquery()


_ENDED = _of_its_generation(generations.c.status).in_([status.value for status in Status if status.is_final])


def entry(generation_id: str, webhook: Webhook) -> dict[str, Any]:
    """The row of a webhook that was asked for, to be written with its generation."""
    host = (urlsplit(webhook.url).hostname or "").rstrip(".")[:255]
    return {"generation_id": generation_id, "attempts": 0, "due": 0.0, "host": host}


class SqlWebhookOutbox:
    """`WebhookOutbox` over the connections of the `SqlGenerationStore`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def lease_due(
        self, now: float, lease_s: float, limits: Attempts, under_way: Sequence[tuple[str, str]]
    ) -> list[PendingDelivery]:
        """See WebhookOutbox."""
        first = _first_of_each(now, limits, under_way)
        record = _of_its_generation(generations.c.record)

        def lease(connection: Connection) -> list[PendingDelivery]:
            names = _in_turn(connection.execute(first).all(), limits, under_way)
            ready = (
                select(webhooks, record.label("record"))
                .where(webhooks.c.generation_id.in_(names), webhooks.c.due <= now)
                .with_for_update(of=webhooks, skip_locked=True)
            )
            rows = {row.generation_id: row for row in connection.execute(ready)}
            connection.execute(update(webhooks).where(webhooks.c.generation_id.in_(rows)).values(due=now + lease_s))
            taken = (rows[name] for name in names if name in rows)
            return [PendingDelivery(codec.decode(row.record), row.attempts, row.host) for row in taken]

        return await self._connections.write(lease)

    async def reschedule(self, generation_id: str, due: float, attempts: int) -> None:
        """See WebhookOutbox."""
        change = update(webhooks).where(webhooks.c.generation_id == generation_id).values(due=due, attempts=attempts)
        await self._connections.write(lambda connection: connection.execute(change))

    async def remove(self, generation_id: str) -> None:
        """See WebhookOutbox."""
        gone = delete(webhooks).where(webhooks.c.generation_id == generation_id)
        await self._connections.write(lambda connection: connection.execute(gone))

    async def count_pending(self) -> int:
        """See WebhookOutbox."""
        ended = select(func.count()).select_from(webhooks).where(_ENDED)
        return await self._connections.read(lambda connection: int(connection.execute(ended).scalar_one()))


def _first_of_each(now: float, limits: Attempts, under_way: Sequence[tuple[str, str]]) -> Select[Any]:
    """The first webhooks that are due of every owner and host that has attempts left; those of one host in turn."""
    owner = _of_its_generation(generations.c.owner)
    owners = [name for name, count in Counter(name for name, _ in under_way).items() if count >= limits.of_owner]
    lanes = [lane for lane, count in Counter(under_way).items() if count >= limits.to_host]
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
    by_owner = select(by_host, place.label("of_owner")).where(by_host.c.of_host <= limits.to_host).subquery()
    return (
        select(by_owner)
        .where(by_owner.c.of_owner <= limits.of_owner)
        .order_by(by_owner.c.of_owner, by_owner.c.due, by_owner.c.generation_id)
        .limit(limits.in_all)
    )


def _in_turn(rows: Sequence[Row[Any]], limits: Attempts, under_way: Sequence[tuple[str, str]]) -> list[str]:
    """Ids of the generations whose webhooks begin now, those of the owner and host with the fewest attempts first."""
    owners, lanes = Counter(name for name, _ in under_way), Counter(under_way)
    room, taken = limits.in_all - len(under_way), list[str]()
    turn = {row.generation_id: (owners[row.owner] + row.of_owner, row.due) for row in rows}
    for row in sorted(rows, key=lambda row: turn[row.generation_id]):
        lane = (row.owner, row.host)
        if len(taken) < room and owners[row.owner] < limits.of_owner and lanes[lane] < limits.to_host:
            taken.append(row.generation_id)
            owners[row.owner] += 1
            lanes[lane] += 1
    return taken
