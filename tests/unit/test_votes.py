"""Profiles of taste in the database, and replicas that write one at the same moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.domain import TasteProfile, Vote, VoteKind
from app.service.ranking.taste import Ballot, TasteService
from app.stores.protocols import ProfileCaps, ProfileCapsExceeded
from app.stores.taste import SqlVoteStore
from models.synthetic.scorer import FakeScorer
from tests.unit.store_kit import opened

LIKE = Vote(VoteKind.LIKE, "gen_a", 1, None, b"ab")
FIRST = TasteProfile("fake", "1", b"centre", 1, (LIKE,))


@pytest.mark.anyio
async def test_a_profile_that_has_changed_is_not_written_over(any_url: str) -> None:
    async with opened(any_url) as records:
        votes = SqlVoteStore(records.connections)
        assert await votes.add("me", "mine", FIRST, [LIKE], [], known=None)
        assert not await votes.add("me", "mine", FIRST, [LIKE], [], known=None), "it is there by now"
        more = replace(LIKE, index=2)
        second = replace(FIRST, fields=2, votes=(LIKE, more))
        assert await votes.add("me", "mine", second, [more], [], known=FIRST)
        assert not await votes.add("me", "mine", second, [more], [], known=FIRST), "somebody has voted since"
        assert await votes.read("me", "mine") == second
        await votes.replace("me", "mine", replace(FIRST, centre=b"other", fields=2))
        assert not await votes.add("me", "mine", second, [more], [], known=second), "another one was imported since"
        assert await votes.read("me", "mine") == replace(FIRST, centre=b"other", fields=2)
        assert await votes.list_profiles("you") == []
        other = replace(LIKE, kind=VoteKind.DISLIKE)
        swapped = replace(FIRST, centre=b"other", fields=3, votes=(other,))
        assert await votes.add("me", "mine", swapped, [other], [LIKE], known=replace(FIRST, centre=b"other", fields=2))
        assert await votes.read("me", "mine") == swapped
        pair = Vote(VoteKind.PREFER, "gen_a", 1, 2, b"ab")
        paired = replace(swapped, fields=4, votes=(other, pair))
        assert await votes.add("me", "mine", paired, [pair], [], known=swapped)
        turned = replace(paired, fields=5, votes=(other, replace(pair, index=2, over=1)))
        assert await votes.add("me", "mine", turned, turned.votes[1:], [pair], known=paired)
        assert await votes.read("me", "mine") == turned
        twice = replace(turned, votes=(LIKE, LIKE, pair))
        await votes.replace("me", "mine", twice)
        assert await votes.add("me", "mine", replace(turned, fields=6), [other], [LIKE], known=twice), "both are gone"
        assert (await votes.read("me", "mine")) == replace(turned, fields=6, votes=(pair, other))
        await votes.replace("me", "mine", turned)
        stamp = await votes.version("me", "mine")
        await votes.replace("me", "mine", replace(turned, votes=(LIKE, pair)))
        assert await votes.version("me", "mine") != stamp, "others of as many"
        assert not await votes.add("me", "mine", swapped, [], [], known=turned), "its votes are others"
        await votes.replace("me", "mine", replace(FIRST, centre=b"other", fields=2))
        assert await votes.delete("me", "mine")
        assert not await votes.add("me", "mine", second, [more], [], known=FIRST), "it was forgotten since"


@pytest.mark.anyio
async def test_an_owner_stores_so_many_profiles_and_bytes_and_no_more(url: str) -> None:
    def profile(votes: int) -> TasteProfile:
        cast = tuple(Vote(VoteKind.LIKE, "gen_a", index, None, bytes(50)) for index in range(votes))
        return TasteProfile("fake", "1", bytes(100), 1, cast)

    async with opened(url) as one, opened(url) as two:
        stores = [SqlVoteStore(records.connections, ProfileCaps(5, 2000)) for records in (one, two)]
        writes = [stores[i % 2].replace("me", f"mine{i}", profile(2)) for i in range(8)]
        ends = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(end) for end in ends if end is not None] == [ProfileCapsExceeded] * 3
        names = await stores[0].list_profiles("me")
        assert len(names) == 5
        await stores[1].replace("you", "mine", profile(2))
        kept = await stores[0].read("me", names[0])
        assert kept is not None
        grown = replace(
            kept, votes=(*kept.votes, *(replace(LIKE, index=9 + i, direction=bytes(50)) for i in range(21)))
        )
        with pytest.raises(ProfileCapsExceeded) as over:
            await stores[1].add("me", names[0], grown, grown.votes[2:], [], known=kept)
        assert over.value.stored == ProfileCaps(5, 5 * 200 + 21 * 50)
        assert await stores[0].read("me", names[0]) == kept
        assert await stores[1].add("me", names[0], grown, grown.votes[3:], [], known=kept)
        with pytest.raises(ProfileCapsExceeded):
            await stores[0].add("me", "another", profile(1), profile(1).votes, [], known=None)
        assert await stores[0].delete("me", names[1])
        await stores[1].replace("me", "another", profile(1))


class Meeting(SqlVoteStore):
    """Nobody has what was read first before all of the replicas have read it."""

    def __init__(self, connections: Any, everybody: asyncio.Barrier) -> None:
        super().__init__(connections)
        self._everybody = everybody
        self.reads = 0

    async def read(self, owner: str, profile: str) -> TasteProfile | None:
        found = await super().read(owner, profile)
        self.reads += 1
        if self.reads == 1:
            await self._everybody.wait()
        return found


@pytest.mark.anyio
async def test_votes_of_replicas_at_one_moment_all_count_and_each_once(url: str) -> None:
    engine: Any = SimpleNamespace(scorer=FakeScorer().info)
    field = np.random.default_rng(0).normal(size=(8, engine.scorer.dimensions)).astype(np.float32)

    async def embeddings(_: object) -> Any:
        return field

    async def get(_: str) -> Any:
        return SimpleNamespace(spec=SimpleNamespace(n_candidates=8), candidates=[SimpleNamespace(failure=None)] * 8)

    everybody = asyncio.Barrier(3)
    async with opened(url) as one, opened(url) as two, opened(url) as three:
        stores = [Meeting(records.connections, everybody) for records in (one, two, three)]
        fields: Any = SimpleNamespace(embeddings=embeddings)
        replicas = [TasteService(engine, store, fields, get) for store in stores]
        ballots = [Ballot("gen_a", liked=(0, 3)), Ballot("gen_a", liked=(0, 1)), Ballot("gen_a", disliked=(2,))]
        await asyncio.gather(*(t.cast_votes("me", "mine", b) for t, b in zip(replicas, ballots, strict=True)))
        known = await replicas[0].export_profile("me", "mine")
    assert sorted((v.kind, v.index) for v in known.votes) == [("dislike", 2), ("like", 0), ("like", 1), ("like", 3)]
    assert known.fields == 3
    assert sum(store.reads for store in stores) > 4, "whoever came later has read again"
