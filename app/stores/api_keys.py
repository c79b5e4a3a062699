"""API keys in the SQL database, and one counter each, which all replicas share. Of a key only its digest is kept."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, case, insert, or_, select, update

from app.stores.connections import Connections, inserting
from app.stores.protocols import ApiKey, Permission, QuotaCharge, QuotaUsage
from app.stores.schema import api_key_usage as usage
from app.stores.schema import api_keys, generations


class SqlApiKeyStore:
    """`ApiKeyStore` over the connections of the `SqlGenerationStore`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def list_keys(self) -> list[ApiKey]:
        """See ApiKeyStore."""
        every = select(api_keys).order_by(api_keys.c.created)
        rows = await self._connections.read(lambda connection: connection.execute(every).all())
        return [_key(row) for row in rows]

    async def add(self, key: ApiKey) -> None:
        """See ApiKeyStore."""
        row = {
            "id": key.id,
            "name": key.name,
            "digest": key.digest,
            "rights": " ".join(sorted(key.permissions)),
            "quota": key.quota,
            "window_s": key.window_s,
            "secret": key.secret,
            "created": key.created,
            "revoked": key.revoked,
        }
        await self._connections.write(lambda connection: connection.execute(insert(api_keys), row))

    async def revoke(self, key_id: str, now: float) -> bool:
        """See ApiKeyStore."""
        good = api_keys.c.id == key_id, api_keys.c.revoked.is_(None)
        change = update(api_keys).where(*good).values(revoked=now)
        return await self._connections.write(lambda connection: connection.execute(change).rowcount > 0)


CHARGE = generations.c.id, generations.c.owner, generations.c.charged, generations.c.charged_window
"""What `give_back` wants to know of a generation."""


class Refused(Exception):
    """The key's quota is used up; ends the transaction."""

    def __init__(self, spent: QuotaUsage) -> None:
        super().__init__()
        self.spent = spent


def charge_quota(connection: Connection, generation_id: str, charge: QuotaCharge) -> QuotaUsage:
    """Add to what the key has used, and note in the generation's row what was added, and in which window.

    The sum is made by the database, so replicas never pass the quota together. Raises Refused.
    """
    open_window = inserting(connection, usage).values(key_id=charge.key_id, window=charge.window, used=0)
    open_window = open_window.on_conflict_do_update(
        index_elements=[usage.c.key_id],
        set_={"used": 0, "window": charge.window},
        # A replica whose clock is a little behind goes on in the window that another one has opened.
        where=or_(usage.c.window < charge.window, usage.c.window > charge.window + 1),
    )
    mine, after = usage.c.key_id == charge.key_id, usage.c.used + charge.candidates
    connection.execute(open_window)
    granted = connection.execute(update(usage).where(mine, after <= charge.quota).values(used=after)).rowcount > 0
    found = connection.execute(select(usage.c.used, usage.c.window).where(mine)).one()
    if not granted:
        raise Refused(QuotaUsage(False, found.used))
    note = update(generations).where(generations.c.id == generation_id)
    connection.execute(note.values(charged=charge.candidates, charged_window=found.window))
    return QuotaUsage(True, found.used)


def give_back(connection: Connection, generation: Row[*tuple[Any, ...]], due: int) -> None:
    """Charge a generation, of which `CHARGE` is given, for `due` candidates only, while its window lasts."""
    rest = generation.charged - due
    if rest <= 0:
        return
    same = usage.c.key_id == generation.owner, usage.c.window == generation.charged_window
    left = case((usage.c.used > rest, usage.c.used - rest), else_=0)
    connection.execute(update(usage).where(*same).values(used=left))
    connection.execute(update(generations).where(generations.c.id == generation.id).values(charged=due))


def used(connection: Connection, key_id: str, window: int) -> int:
    """What `charge_quota` would add to in this window."""
    found = connection.execute(select(usage.c.used, usage.c.window).where(usage.c.key_id == key_id)).first()
    return found.used if found is not None and window <= found.window <= window + 1 else 0


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        row.id,
        row.name,
        row.digest,
        frozenset(Permission(right) for right in row.rights.split()),
        row.quota,
        row.window_s,
        row.secret,
        row.created,
        row.revoked,
    )
