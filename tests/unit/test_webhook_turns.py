"""Whose webhook is posted next: no owner and no host holds up the webhooks of another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from app.domain import Batch, Status, Webhook
from app.service import WebhookClient, WebhookDispatcher, WebhookPolicy
from app.service.webhooks import dispatcher
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlBatchStore, SqlGenerationStore
from app.stores.protocols import DeliveryLimits
from app.stores.webhooks import SqlWebhookOutbox
from tests.unit.store_kit import MINE, generation

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"
TARPIT, GOOD = "http://tarpit.example/", "http://good.example/"
FEW = DeliveryLimits(total=6, per_owner=4, per_host=2)


async def _ended(database: SqlGenerationStore, name: str, owner: str, url: str) -> None:
    made = generation(name)
    asked = replace(made, spec=replace(made.spec, owner=owner), webhook=Webhook(url, ("failed",)))
    await database.create(asked, [], MINE)
    await database.save(replace(asked, status=Status.FAILED), [], MINE)


async def _taken(
    store: SqlWebhookOutbox, now: float, in_flight: list[tuple[str, str]], limits: DeliveryLimits = FEW
) -> list[str]:
    return [due.id for due in await store.lease_due(now, 60.0, limits, in_flight)]


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: object) -> AsyncGenerator[SqlGenerationStore]:
    url = f"sqlite:///{tmp_path}/f.db"
    if request.param == "postgresql":
        url = await asyncio.to_thread(request.getfixturevalue("postgresql").database)
    store = await SqlGenerationStore.open(url)
    try:
        yield store
    finally:
        await store.close()


async def test_owners_and_hosts_take_turns(database: SqlGenerationStore) -> None:
    store = SqlWebhookOutbox(database.connections)
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


async def test_the_owner_with_the_fewest_attempts_comes_first(database: SqlGenerationStore) -> None:
    store = SqlWebhookOutbox(database.connections)
    for number in range(4):
        await _ended(database, f"gen_a{number}", "one", f"http://{number}.example/")
    await _ended(database, "gen_z", "two", GOOD)
    in_flight = [("one", "x.example"), ("one", "y.example"), *[(f"{n}", "z.example") for n in range(3)]]
    assert await _taken(store, 1.0, in_flight) == ["gen_z"], "there is room for one"


async def test_batches_keep_to_the_limits_of_their_owner_and_host(database: SqlGenerationStore) -> None:
    store, batches = SqlWebhookOutbox(database.connections), SqlBatchStore(database)
    for number in range(4):
        batch = Batch(f"batch_a{number}", "one", number, 1, (), Webhook(TARPIT, ("failed",)))
        made = generation(f"gen_a{number}", Status.QUEUED)
        entry = replace(made, spec=replace(made.spec, owner="one"), batch=batch.id, batch_index=0)
        await batches.create(batch, [(entry, [])], None, None)
        await batches.settle([replace(entry, status=Status.FAILED)], [])
    last = replace(batch, id="batch_b", owner="two", created=9.0)
    entry = replace(entry, spec=replace(entry.spec, id="gen_b", owner="two"), batch=last.id)
    await batches.create(last, [(entry, [])], None, None)
    await batches.settle([replace(entry, status=Status.FAILED)], [])
    lane = ("one", "tarpit.example")
    assert await _taken(store, 1.0, [lane, lane]) == ["batch_b"], "two of one owner to one host at once"
    assert await _taken(store, 1.0, [("one", f"{number}.example") for number in range(4)]) == [], "four of one owner"
    assert await _taken(store, 1.0, []) == ["batch_a0", "batch_a1"]


class Slow(WebhookClient):
    """Answers for a tarpit only when `answers` is set."""

    def __init__(self) -> None:
        super().__init__(allow_private=True)
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
async def _delivering(database: SqlGenerationStore) -> AsyncGenerator[Slow]:
    webhook_client = Slow()
    policy = WebhookPolicy(SECRET, allow_private=True)
    dispatcher = WebhookDispatcher(
        SqlWebhookOutbox(database.connections),
        SqlApiKeyStore(database.connections),
        webhook_client,
        policy,
        database.clock,
    )
    task = asyncio.create_task(dispatcher.run())
    try:
        yield webhook_client
    finally:
        task.cancel()
        await asyncio.wait([task])
        await webhook_client.close()


async def _until(webhook_client: Slow, host: str, count: int) -> None:
    async with asyncio.timeout(30):
        while webhook_client.posted[host] < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("owner", ["one", "two"])
async def test_a_tarpit_does_not_delay_the_webhooks_to_others(
    database: SqlGenerationStore, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    for number in range(40):
        await _ended(database, f"gen_a{number:03}", "one", TARPIT)
    for number in range(12):
        await _ended(database, f"gen_z{number:02}", owner, GOOD)
    async with _delivering(database) as webhook_client:
        await _until(webhook_client, "good.example", 12)
        assert webhook_client.asked["tarpit.example"] == dispatcher.DELIVERY_LIMITS.per_host
        webhook_client.answers.set()
        await _until(webhook_client, "tarpit.example", 40)


async def test_an_owner_of_many_tarpits_does_not_delay_another_owner(
    database: SqlGenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    for number in range(40):
        await _ended(database, f"gen_a{number:03}", "one", f"http://tarpit{number}.example/")
    await _ended(database, "gen_z", "two", GOOD)
    async with _delivering(database) as webhook_client:
        await _until(webhook_client, "good.example", 1)
        assert len(webhook_client.asked) == dispatcher.DELIVERY_LIMITS.per_owner + 1
