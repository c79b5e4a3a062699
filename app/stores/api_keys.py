"""API keys in the SQL database, with one usage counter per key for all replicas.

Of a key's secret part only the digest is stored.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, case, delete, insert, or_, select, update

from app.stores.connections import Connections, dialect_insert
from app.stores.protocols import ApiKey, Permission, QuotaCharge, QuotaUsage
from app.stores.schema import api_key_usage as usage
from app.stores.schema import api_keys, generations, link_secrets


class SqlApiKeyStore:
    """`ApiKeyStore` over the connections of `SqlGenerationStore`, which closes them."""

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
        active = api_keys.c.id == key_id, api_keys.c.revoked.is_(None)
        change = update(api_keys).where(*active).values(revoked=now)
        return await self._connections.write(lambda connection: connection.execute(change).rowcount > 0)

    async def link_secrets(self) -> list[str]:
        """See ApiKeyStore."""
        rows = await self._connections.read(lambda connection: connection.execute(_LINK_SECRETS).all())
        return [row.secret for row in rows]

    async def rotate_link_secret(self, secret: str, now: float) -> None:
        """See ApiKeyStore."""

        def rotate(connection: Connection) -> None:
            newest = connection.execute(_LINK_SECRETS).first()
            created = now if newest is None else max(now, newest.created + 1)
            connection.execute(insert(link_secrets), {"secret": secret, "created": created})
            kept = _LINK_SECRETS.with_only_columns(link_secrets.c.secret).limit(2)
            connection.execute(delete(link_secrets).where(link_secrets.c.secret.not_in(kept)))

        await self._connections.write(rotate)


_LINK_SECRETS = select(link_secrets).order_by(link_secrets.c.created.desc())


CHARGE_COLUMNS = generations.c.id, generations.c.owner, generations.c.charged, generations.c.charged_window
"""Columns of a generation that `refund_quota` reads."""


class QuotaRefused(Exception):
    """The key's quota is exhausted; rolls the transaction back."""

    def __init__(self, quota_usage: QuotaUsage) -> None:
        super().__init__()
        self.usage = quota_usage


def charge_quota(connection: Connection, generation_id: str, charge: QuotaCharge) -> QuotaUsage:
    """Add to the key's usage, and record amount and window in the generation's row.

    The database adds up, so concurrent replicas never exceed the quota together. Raises QuotaRefused.
    """
    usage_after, window = _use_quota(connection, charge)
    note = update(generations).where(generations.c.id == generation_id)
    connection.execute(note.values(charged=charge.candidates, charged_window=window))
    return usage_after


def charge_batch(connection: Connection, batch_id: str, charge: QuotaCharge) -> QuotaUsage:
    """Charge all entries of a batch at once, and record each one's share.

    Raises QuotaRefused.
    """
    usage_after, window = _use_quota(connection, charge)
    note = update(generations).where(generations.c.batch == batch_id)
    connection.execute(note.values(charged=generations.c.candidates, charged_window=window))
    return usage_after


def _use_quota(connection: Connection, charge: QuotaCharge) -> tuple[QuotaUsage, int]:
    """Add to the key's usage; the usage and its window. Raises QuotaRefused."""
    open_window = dialect_insert(connection, usage).values(key_id=charge.key_id, window=charge.window, used=0)
    open_window = open_window.on_conflict_do_update(
        index_elements=[usage.c.key_id],
        set_={"used": 0, "window": charge.window},
        # A replica whose clock lags slightly keeps using the window that another one opened.
        where=or_(usage.c.window < charge.window, usage.c.window > charge.window + 1),
    )
    mine, after = usage.c.key_id == charge.key_id, usage.c.used + charge.candidates
    connection.execute(open_window)
    granted = connection.execute(update(usage).where(mine, after <= charge.quota).values(used=after)).rowcount > 0
    found = connection.execute(select(usage.c.used, usage.c.window).where(mine)).one()
    if not granted:
        raise QuotaRefused(QuotaUsage(False, found.used))
    return QuotaUsage(True, found.used), int(found.window)


def refund_quota(connection: Connection, generation: Row[*tuple[Any, ...]], delivered: int) -> None:
    """Reduce a generation's charge to `delivered` candidates while its window lasts.

    `generation` holds `CHARGE_COLUMNS`.
    """
    refund = generation.charged - delivered
    if refund <= 0:
        return
    window = usage.c.key_id == generation.owner, usage.c.window == generation.charged_window
    remaining = case((usage.c.used > refund, usage.c.used - refund), else_=0)
    connection.execute(update(usage).where(*window).values(used=remaining))
    connection.execute(update(generations).where(generations.c.id == generation.id).values(charged=delivered))


def quota_used(connection: Connection, key_id: str, window: int) -> int:
    """Usage in this window, as `charge_quota` would see it."""
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
