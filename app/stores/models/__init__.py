"""Which replica of one database serves which models."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from app.stores.generations import SqlGenerationStore
from app.stores.protocols import MODELS_TOPIC, ServedModelRow
from app.stores.schema import served_models

FORGOTTEN_S = 3600.0
"""Seconds after which rows of replicas that died are deleted."""


class SqlServedModelStore:
    """`ServedModelStore` in the database of generations, by the clock of leases."""

    def __init__(self, records: SqlGenerationStore) -> None:
        self._connections = records.connections
        self._rows = records.rows
        self._published: dict[str, frozenset[tuple[str, str, str]]] = {}

    async def publish(self, replica: str, rows: Sequence[ServedModelRow]) -> None:
        """See ServedModelStore."""
        now = self._rows.now()
        values = [
            {
                "replica": replica,
                "model": row.model,
                "state": row.state,
                "card": row.card,
                "weights": row.weights,
                "seen": now,
            }
            for row in rows
        ]

        serves = frozenset((row.model, row.weights, row.state) for row in rows)
        served = self._published.get(replica, frozenset())
        withdrawn = {each[:2] for each in served} - {each[:2] for each in serves}

        def write(connection: Connection) -> None:
            old = served_models.c.seen < now - FORGOTTEN_S
            connection.execute(delete(served_models).where((served_models.c.replica == replica) | old))
            for one in values:  # an expression as `seen` allows one row a statement
                connection.execute(insert(served_models).values(one))
            if serves != served:
                self._rows.notify(connection, MODELS_TOPIC)
            if withdrawn:
                self._rows.notify(connection, "")

        await self._connections.write(write)
        self._published[replica] = serves

    async def live(self, span_s: float) -> list[ServedModelRow]:
        """See ServedModelStore."""
        now, seen = self._rows.now(), served_models.c.seen
        query = (
            select(*(served_models.c[name] for name in ("replica", "model", "state", "card", "weights")))
            .where(seen > now - span_s, seen < now + span_s)
            .order_by(served_models.c.model, served_models.c.replica)
        )
        rows = await self._connections.read(lambda connection: connection.execute(query).all())
        return [ServedModelRow(row.replica, row.model, row.state, row.card, row.weights) for row in rows]
