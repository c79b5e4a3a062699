"""Whose webhook is posted next: no owner and no host holds up the webhooks of another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from app.domain import Status, Webhook
from app.service import Courier, HookPolicy, Poster
from app.service.webhooks import dispatcher
from app.stores.api_keys import KeyStore
from app.stores.generations import Database
from app.stores.protocols import Attempts
from app.stores.webhooks import HookStore
from tests.unit.store_kit import MINE, generation

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"
TARPIT, GOOD = "http://tarpit.example/", "http://good.example/"
FEW = Attempts(in_all=6, of_owner=4, to_host=2)


async def _ended(database: Database, name: str, owner: str, url: str) -> None:
    made = generation(name)
    asked = replace(made, spec=replace(made.spec, owner=owner), webhook=Webhook(url, ("failed",)))
    await database.create(asked, [], MINE)
    await database.save(replace(asked, status=Status.FAILED), [], MINE)


async def _taken(store: HookStore, now: float, under_way: list[tuple[str, str]], limits: Attempts = FEW) -> list[str]:
    return [due.generation.id for due in await store.take(now, 60.0, limits, under_way)]


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: object) -> AsyncGenerator[Database]:
    url = f"sqlite:///{tmp_path}/f.db"
    if request.param == "postgresql":
        url = await asyncio.to_thread(request.getfixturevalue("postgresql").database)
    store = await Database.open(url)
    try:
        yield store
    finally:
        await store.close()


async def test_owners_and_hosts_take_turns(database: Database) -> None:
    store = HookStore(database.connections)
    for number in range(20):
        await _ended(database, f"gen_a{number:02}", "one", TARPIT)
    await _ended(database, "gen_b", "one", GOOD)
    await _ended(database, "gen_c", "two", TARPIT)
    first = await _taken(store, 1.0, [])
    assert sorted(first) == ["gen_a00", "gen_a01", "gen_b", "gen_c"], "two of one owner to one host at once"
    tarpit = "tarpit.example"
    assert await _taken(store, 1.0, [("one", tarpit), ("one", tarpit)]) == []
    assert await _taken(store, 1.0, [("one", tarpit)]) == ["gen_a02"]
    others = [("one", f"{number}.example") for number in range(4)]
    assert await _taken(store, 1.0, others) == [], "four of one owner at once"


async def test_the_owner_with_the_fewest_attempts_comes_first(database: Database) -> None:
    store = HookStore(database.connections)
    for number in range(4):
        await _ended(database, f"gen_a{number}", "one", f"http://{number}.example/")
    await _ended(database, "gen_z", "two", GOOD)
    under_way = [("one", "x.example"), ("one", "y.example"), *[(f"{n}", "z.example") for n in range(3)]]
    assert await _taken(store, 1.0, under_way) == ["gen_z"], "there is room for one"


class Slow(Poster):
    """Answers for a tarpit only when `answers` is set."""

    def __init__(self) -> None:
        super().__init__(private=True)
        self.answers = asyncio.Event()
        self.asked: Counter[str] = Counter()
        self.posted: Counter[str] = Counter()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        host = str(urlsplit(url).hostname)
        self.asked[host] += 1
        if host.startswith("tarpit"):
            await self.answers.wait()
        self.posted[host] += 1


@asynccontextmanager
async def _delivering(database: Database) -> AsyncGenerator[Slow]:
    poster = Slow()
    policy = HookPolicy(SECRET, private=True)
    courier = Courier(HookStore(database.connections), KeyStore(database.connections), poster, policy, database.clock)
    task = asyncio.create_task(courier.run())
    try:
        yield poster
    finally:
        task.cancel()
        await asyncio.wait([task])
        await poster.close()


async def _until(poster: Slow, host: str, count: int) -> None:
    async with asyncio.timeout(30):
        while poster.posted[host] < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("owner", ["one", "two"])
async def test_a_tarpit_does_not_delay_the_webhooks_to_others(
    database: Database, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_S", 0.05)
    for number in range(40):
        await _ended(database, f"gen_a{number:03}", "one", TARPIT)
    for number in range(12):
        await _ended(database, f"gen_z{number:02}", owner, GOOD)
    async with _delivering(database) as poster:
        await _until(poster, "good.example", 12)
        assert poster.asked["tarpit.example"] == dispatcher.ATTEMPTS.to_host
        poster.answers.set()
        await _until(poster, "tarpit.example", 40)


async def test_an_owner_of_many_tarpits_does_not_delay_another_owner(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_S", 0.05)
    for number in range(40):
        await _ended(database, f"gen_a{number:03}", "one", f"http://tarpit{number}.example/")
    await _ended(database, "gen_z", "two", GOOD)
    async with _delivering(database) as poster:
        await _until(poster, "good.example", 1)
        assert len(poster.asked) == dispatcher.ATTEMPTS.of_owner + 1
