"""Taste votes in the SQL database; they outlive the generations they refer to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from app.domain import TasteProfile, Vote, VoteKind
from app.stores.connections import Connections, dialect_insert
from app.stores.protocols import ProfileCaps, ProfileCapsExceeded
from app.stores.schema import taste_profiles as profiles
from app.stores.schema import taste_votes as votes

_OWNER_LOCK = 465_032
_DELETE_BATCH = 500
"""Votes deleted per statement."""


class SqlVoteStore:
    """`VoteStore` over the connections of `SqlGenerationStore`, which closes them."""

    def __init__(self, connections: Connections, caps: ProfileCaps | None = None) -> None:
        self._connections = connections
        self._caps = caps or ProfileCaps()

    async def list_profiles(self, owner: str) -> list[str]:
        """See VoteStore."""
        query = select(profiles.c.profile).where(profiles.c.owner == owner).order_by(profiles.c.profile)
        return [row.profile for row in await self._read(query)]

    async def version(self, owner: str, profile: str) -> str | None:
        """See VoteStore."""
        newest = select(func.max(votes.c.seq)).where(votes.c.owner == owner, votes.c.profile == profile)
        query = select(profiles.c.fields, profiles.c.centre, newest.scalar_subquery().label("newest")).where(
            *_profile_filter(owner, profile)
        )
        rows = await self._read(query)
        if not rows:
            return None
        return f"{rows[0].fields} {rows[0].newest} {hashlib.sha256(rows[0].centre).hexdigest()}"

    async def read(self, owner: str, profile: str) -> TasteProfile | None:
        """See VoteStore."""
        found = await self._read(select(profiles).where(*_profile_filter(owner, profile)))
        if not found:
            return None
        query = select(votes).where(votes.c.owner == owner, votes.c.profile == profile).order_by(votes.c.seq)
        cast = tuple(
            Vote(VoteKind(v.kind), v.generation_id, v.candidate, v.over, v.direction) for v in await self._read(query)
        )
        return TasteProfile(found[0].scorer, found[0].revision, found[0].centre, found[0].fields, cast)

    async def add(
        self,
        owner: str,
        profile: str,
        contents: TasteProfile,
        new: Sequence[Vote],
        removed: Sequence[Vote],
        *,
        known: TasteProfile | None,
    ) -> bool:
        """See VoteStore."""

        def write(connection: Connection) -> bool:
            _lock_owner(connection, owner)
            if known is None:
                row = {"owner": owner, "profile": profile, **_profile_columns(contents)}
                inserted = connection.execute(dialect_insert(connection, profiles).values(row).on_conflict_do_nothing())
                if inserted.rowcount == 0:
                    return False
            else:
                head = connection.execute(
                    select(profiles).where(*_profile_filter(owner, profile)).with_for_update()
                ).first()
                cast = _vote_positions(connection, owner, profile)
                if head is None or (head.fields, head.centre) != (known.fields, known.centre):
                    return False
                if [key for key, _ in cast] != [vote.key for vote in known.votes]:
                    return False
                connection.execute(
                    update(profiles).where(*_profile_filter(owner, profile)).values(_profile_columns(contents))
                )
                removed_keys = {vote.key for vote in removed}
                _delete_votes(connection, [seq for key, seq in cast if key in removed_keys])
            _insert_votes(connection, owner, profile, new)
            _check_caps(connection, owner, self._caps)
            return True

        return await self._connections.write(write)

    async def replace(self, owner: str, profile: str, contents: TasteProfile) -> None:
        """See VoteStore."""

        def write(connection: Connection) -> None:
            _lock_owner(connection, owner)
            row = dialect_insert(connection, profiles).values(
                {"owner": owner, "profile": profile, **_profile_columns(contents)}
            )
            connection.execute(
                row.on_conflict_do_update(index_elements=["owner", "profile"], set_=_profile_columns(contents))
            )
            before = [seq for _, seq in _vote_positions(connection, owner, profile)]
            # Insert before deleting, so that no `seq` is reused: `version` depends on the newest.
            _insert_votes(connection, owner, profile, contents.votes)
            _delete_votes(connection, before)
            _check_caps(connection, owner, self._caps)

        await self._connections.write(write)

    async def delete(self, owner: str, profile: str) -> bool:
        """See VoteStore."""

        def remove(connection: Connection) -> bool:
            connection.execute(delete(votes).where(votes.c.owner == owner, votes.c.profile == profile))
            return connection.execute(delete(profiles).where(*_profile_filter(owner, profile))).rowcount > 0

        return await self._connections.write(remove)

    async def _read(self, query: Any) -> Sequence[Row[Any]]:
        return await self._connections.read(lambda connection: connection.execute(query).all())


def _lock_owner(connection: Connection, owner: str) -> None:
    """Serialise the writers of one owner, so that counts stay valid until commit."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_OWNER_LOCK, func.hashtext(owner))))


def _check_caps(connection: Connection, owner: str, caps: ProfileCaps) -> None:
    """Raise ProfileCapsExceeded when the owner stores more than `caps`.

    Sizes come from counts: a vote has half the bytes of its profile's centre.
    """
    mine = votes.c.owner == profiles.c.owner, votes.c.profile == profiles.c.profile
    cast = select(func.count()).where(*mine).scalar_subquery()
    centre = func.length(profiles.c.centre)
    query = select(func.count(), func.coalesce(func.sum(centre + cast * centre // 2), 0)).where(
        profiles.c.owner == owner
    )
    count, size = connection.execute(query).one()
    if count > caps.profiles or size > caps.size:
        raise ProfileCapsExceeded(ProfileCaps(count, int(size)), caps)


def _profile_filter(owner: str, profile: str) -> tuple[Any, Any]:
    return profiles.c.owner == owner, profiles.c.profile == profile


def _vote_positions(connection: Connection, owner: str, profile: str) -> list[tuple[tuple[object, ...], int]]:
    """Identity and `seq` of each vote of a profile, in casting order."""
    own = votes.c.seq, votes.c.kind, votes.c.generation_id, votes.c.candidate, votes.c.over
    query = select(*own).where(votes.c.owner == owner, votes.c.profile == profile).order_by(votes.c.seq)
    return [((kind, *rest), seq) for seq, kind, *rest in connection.execute(query)]


def _delete_votes(connection: Connection, seqs: Sequence[int]) -> None:
    for start in range(0, len(seqs), _DELETE_BATCH):
        connection.execute(delete(votes).where(votes.c.seq.in_(seqs[start : start + _DELETE_BATCH])))


def _profile_columns(contents: TasteProfile) -> dict[str, Any]:
    return {
        "scorer": contents.scorer,
        "revision": contents.revision,
        "centre": contents.centre,
        "fields": contents.fields,
    }


def _insert_votes(connection: Connection, owner: str, profile: str, new: Sequence[Vote]) -> None:
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
    if rows:
        connection.execute(insert(votes), rows)
