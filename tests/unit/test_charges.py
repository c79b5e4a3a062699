"""Quotas are charged for delivered candidates: with races of replicas, failures, cancellations and deaths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.domain import Candidate, Checkpoint, Generation, Status
from app.engine.pruning import wave_gain
from app.errors import QuotaExceeded
from app.service import ApiKey, GenerationParams, LeasePolicy, Permission, auth
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claim, QuotaCharge, QuotaUsage
from tests.unit.service_kit import house
from tests.unit.store_kit import generation, opened

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]

WINDOW = 7


async def key_in(store: SqlGenerationStore, quota: int = 1000) -> ApiKey:
    key, _ = auth.create_api_key("test", list(Permission), quota, 10**9)
    await SqlApiKeyStore(store.connections).add(key)
    return key


def ended(status: Status, owned: Generation, delivered: int = 0) -> Generation:
    candidates = tuple(Candidate(index, index, pruned_at_step=index or None) for index in range(delivered))
    return replace(owned, status=status, candidates=candidates)


def owned_by(key: ApiKey, name: str, candidates: int = 2) -> Generation:
    found = generation(name)
    return replace(found, spec=replace(found.spec, owner=key.id, n_candidates=candidates))


@dataclass
class Story:
    """What several replicas do to one generation at the same moment, and what it costs.

    Coroutines resume in another order than their transactions commit, so the cost is computed after all of them.
    """

    owned: Generation
    claim: Claim
    charged: int
    endings: list[int] = field(default_factory=list)
    deleted: bool = False

    @property
    def cost(self) -> int:
        """Candidates to pay for: the single ending decides, else a deletion makes the generation free."""
        assert len(self.endings) <= 1, "it ended twice"
        return self.endings[0] if self.endings else 0 if self.deleted else self.charged

    async def end(self, store: SqlGenerationStore, how: str, delivered: int) -> None:
        """One attempt to end the generation; the first that the store accepts decides."""
        if how == "deliver":
            if await store.save(ended(Status.SUCCEEDED, self.owned, delivered), [], self.claim):
                self.endings.append(delivered)
        elif how == "fail":
            if await store.save(ended(Status.FAILED, self.owned), [], self.claim):
                self.endings.append(0)
        elif how == "cancel":
            if await store.settle(ended(Status.CANCELLED, self.owned), []):
                self.endings.append(0)
        elif how == "forget":
            self.deleted = await store.delete(self.owned.id)
        elif how == "hand back":
            await store.release(self.owned, self.claim)
        else:
            await store.append(self.owned.id, [], self.claim)


ENDINGS = ("deliver", "deliver", "fail", "cancel", "forget", "hand back", "go on")


async def test_the_sum_of_charges_is_the_sum_of_what_was_delivered(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        for seed in range(40):
            dice = random.Random(seed)
            key = await key_in(one)

            async def lived(number: int, dice: random.Random = dice, key: ApiKey = key, seed: int = seed) -> Story:
                charged, claim = dice.randint(1, 9), Claim(f"{seed} {number}", 60.0)
                owned = owned_by(key, f"gen_{seed}_{number}", charged)
                story = Story(owned, claim, charged)
                bill = QuotaCharge(key.id, WINDOW, story.charged, 1000)
                entered = await dice.choice([one, two]).create(owned, [], claim, charge=bill)
                assert isinstance(entered, QuotaUsage)
                assert entered.granted
                chosen = [(dice.choice([one, two]), how) for how in dice.sample(ENDINGS, dice.randint(1, 4))]
                await asyncio.gather(*(story.end(s, how, dice.randint(0, story.charged)) for s, how in chosen))
                return story

            stories = await asyncio.gather(*(lived(number) for number in range(8)))
            assert await two.quota_used(key.id, WINDOW) == sum(story.cost for story in stories), (seed, stories)


async def test_a_window_that_is_over_gives_nothing_back(url: str) -> None:
    async with opened(url) as store:
        key = await key_in(store, quota=9)
        first, second = owned_by(key, "gen_a"), owned_by(key, "gen_b")
        await store.create(first, [], Claim("a", 60.0), charge=QuotaCharge(key.id, WINDOW, 5, 9))
        await store.create(second, [], Claim("b", 60.0), charge=QuotaCharge(key.id, WINDOW + 1, 6, 9))
        assert await store.settle(ended(Status.CANCELLED, first), [])
        assert await store.quota_used(key.id, WINDOW + 1) == 6
        late = owned_by(key, "gen_c")
        await store.create(late, [], Claim("c", 60.0), charge=QuotaCharge(key.id, WINDOW, 2, 9))
        assert await store.settle(ended(Status.CANCELLED, late), [])
        assert await store.quota_used(key.id, WINDOW + 1) == 6, "a clock behind was charged in the newer window"
        assert await store.quota_used(key.id, WINDOW + 2) == await store.quota_used("fr_nobody", WINDOW) == 0


# the service on the fakes


@contextmanager
def calling(key: ApiKey) -> Iterator[auth.Caller]:
    caller = auth.Caller(key, lambda: 0.0)
    with auth.as_caller(caller):
        yield caller


async def test_failed_and_cancelled_candidates_are_given_back(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.01) as h:
        key = await key_in(h.records, quota=64)
        with calling(key):
            running = await h.service.submit(GenerationParams("x", n_candidates=16, steps=150))
            assert await h.records.quota_used(key.id, 0) == 16, "what runs is held against the quota"
            await h.service.cancel_on_disconnect(running.id)
            assert await h.records.quota_used(key.id, 0) == 0
            h.generator.fail_on_call = len(h.generator.calls)
            failed = await h.service.wait((await h.service.submit(GenerationParams("x", n_candidates=8))).id)
            assert (failed.status, await h.records.quota_used(key.id, 0)) == (Status.FAILED, 0)
            await h.service.delete((await h.service.submit(GenerationParams("x", n_candidates=8, steps=150))).id)
            assert await h.records.quota_used(key.id, 0) == 0
            done = await h.service.wait((await h.service.submit(GenerationParams("x", n_candidates=8))).id)
            await h.service.delete(done.id)
            assert await h.records.quota_used(key.id, 0) == 8, "what was delivered stays charged when it is forgotten"


async def test_pruned_candidates_of_a_result_are_charged(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        key = await key_in(h.records)
        with calling(key):
            done = await h.service.get(await h.made(n_candidates=6, pruning=(Checkpoint(2, 2),)))
            assert sum(c.pruned_at_step is not None for c in done.candidates) == 4
            assert (done.delivered, await h.records.quota_used(key.id, 0)) == (6, 6)


async def test_auto_is_charged_for_the_waves_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wave_gain, "MIN_EXPECTED_GAIN", 10.0)
    async with house(tmp_path) as h:
        key = await key_in(h.records, quota=100)
        with calling(key) as caller:
            queued = await h.service.submit(GenerationParams("a red apple", n_candidates="auto", steps=4, seed=7))
            assert caller.quota_remaining is not None
            assert caller.quota_remaining[0] == 36
            done = await h.service.wait(queued.id)
            assert (done.stopped, done.delivered) == ("gain", 8)
            assert await h.records.quota_used(key.id, 0) == 8
            assert caller.quota_remaining[0] == 92, "the answer tells what is left in the end"


async def test_what_leaves_the_number_open_keeps_to_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wave_gain, "MIN_EXPECTED_GAIN", 0.0)
    async with house(tmp_path) as h:
        key = await key_in(h.records, quota=20)
        with calling(key):
            some = await h.service.submit(GenerationParams("x", n_candidates="auto", max_candidates=12, pruning="off"))
            assert (some.spec.n_candidates, [n.code for n in some.warnings]) == (12, [])
            assert (await h.service.wait(some.id)).delivered == 12
            rest = await h.service.submit(GenerationParams("x", n_candidates="auto", pruning="off"))
            assert (rest.spec.n_candidates, [n.code for n in rest.warnings]) == (8, ["limited_by_quota"])
            with pytest.raises(QuotaExceeded):
                await h.service.submit(GenerationParams("x", n_candidates="auto"))
            with pytest.raises(QuotaExceeded):
                await h.service.submit(GenerationParams("x"))
        small = await key_in(h.records, quota=5)
        with calling(small):
            assert (await h.service.submit(GenerationParams("x"))).spec.n_candidates == 5


async def test_auto_takes_what_a_race_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, delay_s=0.05) as h:
        key = await key_in(h.records, quota=30)
        used = h.records.quota_used

        async def overtaken(key_id: str, window: int) -> int:
            before = await used(key_id, window)
            if before == 0:
                await h.records.create(owned_by(key, "gen_a"), [], None, charge=QuotaCharge(key.id, 0, 25, 30))
            return before

        monkeypatch.setattr(h.records, "quota_used", overtaken)
        with calling(key):
            auto = await h.service.submit(GenerationParams("x", n_candidates="auto"))
        assert auto.spec.n_candidates == 5
        assert await used(key.id, 0) == 30


async def test_a_generation_that_is_taken_over_is_charged_once(tmp_path: Path) -> None:
    lapse = text("UPDATE generations SET lease_until = 0, claim = 'gone'")
    for attempts, delivered in ((2, 4), (1, 0)):
        place = tmp_path / str(attempts)
        place.mkdir()
        async with (
            house(place, delay_s=0.1) as one,
            house(place, lease_policy=LeasePolicy(max_attempts=attempts)) as two,
        ):
            key = await key_in(one.records)
            with calling(key):
                running = await one.service.submit(GenerationParams("x", n_candidates=4, steps=100))
            while (await two.service.get(running.id)).status is not Status.RUNNING:
                await asyncio.sleep(0.01)
            await one.records.connections.write(lambda connection: connection.execute(lapse))
            working = asyncio.create_task(two.service.run_worker())
            ended = await two.service.wait(running.id)
            assert ended.delivered == delivered
            assert await two.records.quota_used(key.id, 0) == delivered
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def test_random_lives_are_charged_for_what_they_delivered(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.002) as h:
        key = await key_in(h.records, quota=10_000)
        dice = random.Random(3)

        async def lived(ways: Sequence[Callable[[str], Awaitable[object]]], after_s: float) -> None:
            asked: Any = dice.choice([dice.randint(1, 9), "auto"])
            queued = await h.service.submit(GenerationParams("x", n_candidates=asked, steps=12))
            for way in ways:
                await asyncio.sleep(after_s)
                await way(queued.id)
            await h.service.wait(queued.id)

        lives = [
            (),
            (h.service.cancel,),
            (h.service.cancel_on_disconnect, h.service.cancel),
            (h.service.wait, h.service.cancel_on_disconnect),
        ]
        with calling(key):
            for fails in (False, True, False, True):
                h.generator.fail_on_call = len(h.generator.calls) + dice.randint(2, 9) if fails else None
                await asyncio.gather(*(lived(ways, dice.random() * 0.3) for ways in lives * 2))
            every = text("SELECT id FROM generations")
            names = await h.records.connections.read(lambda connection: connection.execute(every).scalars().all())
            found = [await h.service.get(name) for name in names]
        assert {g.status for g in found} == {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
        assert await h.records.quota_used(key.id, 0) == sum(g.delivered for g in found) > 0
