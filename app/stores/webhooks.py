"""The outbox of webhooks: one row a generation that asked for one, written with it and gone when it was delivered."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, ScalarSelect, delete, func, select, update

from app.domain import Status
from app.stores import codec
from app.stores.connections import Connections
from app.stores.protocols import Due
from app.stores.schema import generations, webhooks


def _of_its_generation(column: Column[Any]) -> ScalarSelect[Any]:
    """A column of a webhook's generation, looked up by its id. In a join, SQLite walks all generations instead."""
    return select(column).where(generations.c.id == webhooks.c.generation_id).scalar_subquery()


_ENDED = _of_its_generation(generations.c.status).in_([status.value for status in Status if status.final])


class HookStore:
    """`Hooks` over the connections of the `Database`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def take(self, now: float, lease_s: float, limit: int) -> list[Due]:
        """See Hooks."""
        record = _of_its_generation(generations.c.record)
        ready = (
            select(webhooks.c.generation_id, webhooks.c.attempts, record.label("record"))
            .where(webhooks.c.due <= now, _ENDED)
            .order_by(webhooks.c.due)
            .limit(limit)
            .with_for_update(of=webhooks, skip_locked=True)
        )

        def lease(connection: Connection) -> list[Due]:
            rows = connection.execute(ready).all()
            names = [row.generation_id for row in rows]
            connection.execute(update(webhooks).where(webhooks.c.generation_id.in_(names)).values(due=now + lease_s))
            return [Due(codec.decode(row.record), row.attempts) for row in rows]

        return await self._connections.write(lease)

    async def postpone(self, generation_id: str, due: float, attempts: int) -> None:
        """See Hooks."""
        change = update(webhooks).where(webhooks.c.generation_id == generation_id).values(due=due, attempts=attempts)
        await self._connections.write(lambda connection: connection.execute(change))

    async def done(self, generation_id: str) -> None:
        """See Hooks."""
        gone = delete(webhooks).where(webhooks.c.generation_id == generation_id)
        await self._connections.write(lambda connection: connection.execute(gone))

    async def waiting(self) -> int:
        """See Hooks."""
        ended = select(func.count()).select_from(webhooks).where(_ENDED)
        return await self._connections.read(lambda connection: int(connection.execute(ended).scalar_one()))
