"""The database's clock: what replicas date and compare by, however far their own clocks are apart."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Double, literal_column, select

from app.stores.connections import Connections

POSTGRESQL_NOW: ColumnElement[float] = literal_column("extract(epoch FROM statement_timestamp())::float8", Double)
SQLITE_NOW: ColumnElement[float] = literal_column("(julianday('now') - 2440587.5) * 86400.0", Double)
"""The clock of the machine, which the processes that share a SQLite file have in common."""


class DatabaseClock:
    """The database's answer to the last `ask`, and what has passed since; before the first, this machine's clock.

    `ticks` counts seconds and never jumps.
    """

    def __init__(self, connections: Connections, ticks: Callable[[], float] = time.monotonic) -> None:
        self._connections = connections
        self._ticks = ticks
        self._ahead = time.time() - ticks()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._ticks() + self._ahead

    async def ask(self) -> float:
        """What time the database says it is. Raises StoreUnavailable."""
        query = select(POSTGRESQL_NOW if self._connections.postgresql else SQLITE_NOW)
        asked = self._ticks()
        now = await self._connections.read(lambda connection: float(connection.execute(query).scalar_one()))
        self._ahead = now - (asked + self._ticks()) / 2
        return now
