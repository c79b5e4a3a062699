"""The database's clock, which all replicas share for dates and comparisons."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Double, literal_column, select

from app.stores.connections import Connections

POSTGRESQL_NOW: ColumnElement[float] = literal_column("extract(epoch FROM statement_timestamp())::float8", Double)
SQLITE_NOW: ColumnElement[float] = literal_column("(julianday('now') - 2440587.5) * 86400.0", Double)
"""The machine's clock, shared by all processes that use one SQLite file."""


class DatabaseClock:
    """The database's last answer plus the elapsed time.

    Before the first answer, this machine's clock. `ticks` is a monotonic clock in seconds.
    """

    def __init__(self, connections: Connections, ticks: Callable[[], float] = time.monotonic) -> None:
        self._connections = connections
        self._ticks = ticks
        self._ahead = time.time() - ticks()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._ticks() + self._ahead

    async def ask(self) -> float:
        """Query the database's time in seconds since the epoch. Raises StoreUnavailable."""
        query = select(POSTGRESQL_NOW if self._connections.postgresql else SQLITE_NOW)
        started = self._ticks()
        now = await self._connections.read(lambda connection: float(connection.execute(query).scalar_one()))
        self._ahead = now - (started + self._ticks()) / 2
        return now
