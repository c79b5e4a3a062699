"""API keys in the SQL database, and one counter each, which all replicas share. Of a key only its digest is kept."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.stores.connections import Connections
from app.stores.contract import ApiKey, Right
from app.stores.schema import api_key_usage as usage
from app.stores.schema import api_keys


class KeyStore:
    """`Keys` over the connections of the `Database`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def keys(self) -> list[ApiKey]:
        """See Keys."""
        every = select(api_keys).order_by(api_keys.c.created)
        rows = await self._connections.read(lambda connection: connection.execute(every).all())
        return [_key(row) for row in rows]

    async def add(self, key: ApiKey) -> None:
        """See Keys."""
        row = {
            "id": key.id,
            "name": key.name,
            "digest": key.digest,
            "rights": " ".join(sorted(key.rights)),
            "quota": key.quota,
            "window_s": key.window_s,
            "secret": key.secret,
            "created": key.created,
            "revoked": key.revoked,
        }
        await self._connections.write(lambda connection: connection.execute(insert(api_keys), row))

    async def revoke(self, key_id: str, now: float) -> bool:
        """See Keys."""
        good = api_keys.c.id == key_id, api_keys.c.revoked.is_(None)
        change = update(api_keys).where(*good).values(revoked=now)
        return await self._connections.write(lambda connection: connection.execute(change).rowcount > 0)

    async def charge(self, key_id: str, window: int, candidates: int, quota: int) -> tuple[bool, int]:
        """See Keys. The sum is made by the database, so replicas never pass the quota together."""
        make = postgresql.insert if self._connections.postgresql else sqlite.insert
        opened = make(usage).values(key_id=key_id, window=window, used=0)
        opened = opened.on_conflict_do_update(
            index_elements=[usage.c.key_id],
            set_={"used": 0, "window": window},
            # A replica whose clock is a little behind goes on in the window that another one has opened.
            where=or_(usage.c.window < window, usage.c.window > window + 1),
        )
        mine = usage.c.key_id == key_id
        charge = update(usage).where(mine, usage.c.used + candidates <= quota).values(used=usage.c.used + candidates)

        def add(connection: Connection) -> tuple[bool, int]:
            connection.execute(opened)
            granted = connection.execute(charge).rowcount > 0
            return granted, connection.execute(select(usage.c.used).where(mine)).scalar_one()

        return await self._connections.write(add)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        row.id,
        row.name,
        row.digest,
        frozenset(Right(right) for right in row.rights.split()),
        row.quota,
        row.window_s,
        row.secret,
        row.created,
        row.revoked,
    )
