"""Votes in the SQL database, beside the generations they were cast on but not bound to their life."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from app.domain import Profile, Vote, VoteKind
from app.stores.connections import Connections
from app.stores.schema import taste_profiles as profiles
from app.stores.schema import taste_votes as votes


class VoteStore:
    """`Votes` over the connections of the `Database`, which closes them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def names(self, owner: str) -> list[str]:
        """See Votes."""
        query = select(profiles.c.profile).where(profiles.c.owner == owner).order_by(profiles.c.profile)
        return [row.profile for row in await self._read(query)]

    async def stamp(self, owner: str, profile: str) -> str | None:
        """See Votes."""
        newest = select(func.max(votes.c.seq)).where(votes.c.owner == owner, votes.c.profile == profile)
        query = select(profiles.c.fields, profiles.c.centre, newest.scalar_subquery().label("newest")).where(
            *_named(owner, profile)
        )
        rows = await self._read(query)
        if not rows:
            return None
        return f"{rows[0].fields} {rows[0].newest} {hashlib.sha256(rows[0].centre).hexdigest()}"

    async def read(self, owner: str, profile: str) -> Profile | None:
        """See Votes."""
        found = await self._read(select(profiles).where(*_named(owner, profile)))
        if not found:
            return None
        query = select(votes).where(votes.c.owner == owner, votes.c.profile == profile).order_by(votes.c.seq)
        cast = tuple(
            Vote(VoteKind(v.kind), v.generation_id, v.candidate, v.over, v.direction) for v in await self._read(query)
        )
        return Profile(found[0].scorer, found[0].revision, found[0].centre, found[0].fields, cast)

    async def save(self, owner: str, profile: str, kept: Profile, new: Sequence[Vote], *, replace: bool) -> None:
        """See Votes."""
        head = {"scorer": kept.scorer, "revision": kept.revision, "centre": kept.centre, "fields": kept.fields}
        rows = [
            {
                "owner": owner,
                "profile": profile,
                "kind": vote.kind,
                "generation_id": vote.generation,
                "candidate": vote.index,
                "over": vote.over,
                "direction": vote.direction,
            }
            for vote in new
        ]

        def write(connection: Connection) -> None:
            changed = connection.execute(update(profiles).where(*_named(owner, profile)).values(head))
            if changed.rowcount == 0:
                connection.execute(insert(profiles).values(owner=owner, profile=profile, **head))
            if replace:
                connection.execute(delete(votes).where(votes.c.owner == owner, votes.c.profile == profile))
            if rows:
                connection.execute(insert(votes), rows)

        await self._connections.write(write)

    async def delete(self, owner: str, profile: str) -> bool:
        """See Votes."""

        def forget(connection: Connection) -> bool:
            connection.execute(delete(votes).where(votes.c.owner == owner, votes.c.profile == profile))
            return connection.execute(delete(profiles).where(*_named(owner, profile))).rowcount > 0

        return await self._connections.write(forget)

    async def _read(self, query: Any) -> Sequence[Row[Any]]:
        return await self._connections.read(lambda connection: connection.execute(query).all())


def _named(owner: str, profile: str) -> tuple[Any, Any]:
    return profiles.c.owner == owner, profiles.c.profile == profile
