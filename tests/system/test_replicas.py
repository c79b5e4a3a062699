"""Several replicas over one pair of stores: killed, rolled, asked twice. Nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import obstore
import pytest
from obstore.store import LocalStore, S3Store

from app.service import Permission, create_api_key
from app.service.generations.orphaned_files import MARK
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from tests.proxies import running_haproxy
from tests.servers import PATIENCE_S, S3, PostgreSQL
from tests.system.replicas import ASYNC, Replica, asked, ended, figures, replicas

SEEDS = [11, 22, 33, 44]
KILLS = (2, 5)
"""Of a file and a folder, and of servers in the soak run."""

RESENT = 20
pytestmark = pytest.mark.timeout(900)


@dataclass
class Stores:
    """A pair of stores that replicas share, and how to look inside."""

    settings: dict[str, str]
    database: str
    blobs: LocalStore | S3Store
    folder: Path

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self.database.startswith("postgresql:"):
            connection = await asyncpg.connect(self.database)
            try:
                return [tuple(row) for row in await connection.fetch(query)]
            finally:
                await connection.close()
        plain = sqlite3.connect(self.database)
        try:
            return plain.execute(query).fetchall()
        finally:
            plain.close()

    async def key(self) -> dict[str, str]:
        """Headers with a new key, whose quota nobody uses up."""
        key, told = create_api_key("load", list(Permission), 10**9, 10**9)
        url = self.database if self.database.startswith("postgresql:") else f"sqlite:///{self.database}"
        database = await SqlGenerationStore.open(url)
        await SqlApiKeyStore(database.connections).add(key)
        await database.close()
        return {"authorization": f"Bearer {told}"}

    def unfinished(self) -> list[Path]:
        """Files that a writer has begun and that no store lists."""
        return list(self.folder.rglob("*#*"))

    def files(self) -> list[str]:
        return [item["path"] for chunk in obstore.list(self.blobs) for item in chunk]


@pytest.fixture(params=["sqlite+folder", pytest.param("postgresql+s3", marks=pytest.mark.soak)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    if request.param == "sqlite+folder":
        blobs = tmp_path / "data" / "blobs"
        yield Stores({}, str(tmp_path / "data" / "frontrunner.db"), LocalStore(str(blobs), mkdir=True), blobs)
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    s3: S3 = request.getfixturevalue("s3")
    url, prefix = server.database(), tmp_path.name
    settings = {"DATABASE_URL": url, "BLOB_URL": f"s3://pictures/{prefix}", **s3.environment}
    bucket = S3Store(
        "pictures",
        prefix=prefix,
        endpoint=s3.endpoint,
        access_key_id="tester",
        secret_access_key="tester",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    yield Stores(settings, url, bucket, tmp_path)


@dataclass
class Load:
    """Requests without end over some addresses, and what came of them."""

    urls: list[str]
    expected: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    sent: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def submit(self, client: httpx.AsyncClient) -> None:
        """Asynchronous: only what was answered with 202 was accepted. Now and then a look at how one ends."""
        seed = random.choice(SEEDS)
        answer = await client.post(f"{self._any()}/v1/generations", json=asked(seed), headers=ASYNC)
        self.sent += 1
        if answer.status_code == 202:
            self.accepted[answer.json()["id"]] = seed
            if len(self.accepted) % 5 == 0:
                await ended(client, self._any(), answer.json()["id"])
        else:
            self.refused.append(answer.text)

    async def wait(self, client: httpx.AsyncClient, urls: list[str] | None = None) -> None:
        """Synchronous, and sent again with the same key, to one replica after the other; never again to a balancer.

        The kills are quicker than a lease: they may meet both replicas of one request, and each more than once.
        """
        seed, headers = random.choice(SEEDS), {"idempotency-key": f'"{random.getrandbits(64):x}"'}
        order = random.sample(self.urls, len(self.urls))
        self.sent += 1
        for url in order if len(order) == 1 else order * RESENT:
            try:
                answer = await client.post(f"{url}/v1/generations", json=asked(seed), headers=headers)
            except httpx.TransportError as error:
                told = repr(error)
                await asyncio.sleep(0.2)
                continue
            told = answer.text
            if answer.status_code == 200:
                assert figures(answer.json()) == self.expected[seed]
                return
        self.failed.append(told)

    async def stream(self, client: httpx.AsyncClient) -> None:
        """Server-sent events; a stream that breaks off is gone on with after its last event."""
        seed, seen, where, last = random.choice(SEEDS), 0, "", ""
        self.sent += 1
        for _ in range(20):
            headers = {"accept": "text/event-stream"} | ({"last-event-id": str(seen)} if seen else {})
            request = (
                client.build_request("GET", f"{self.urls[0]}{where}/events", headers=headers)
                if where
                else client.build_request("POST", f"{self.urls[0]}/v1/generations", json=asked(seed), headers=headers)
            )
            answer = await client.send(request, stream=True)
            try:
                if answer.status_code != 200:
                    self.failed.append(f"stream {answer.status_code} {(await answer.aread())!r}")
                    return
                where = where or answer.headers["location"]
                async for line in answer.aiter_lines():
                    name, _, value = line.partition(": ")
                    seen = int(value) if name == "id" else seen
                    last = value if name == "event" else last
            except httpx.TransportError:
                pass
            finally:
                await answer.aclose()
            if last in {"succeeded", "failed", "cancelled"}:
                break
        if last != "succeeded":
            self.failed.append(f"stream ended with {last}")

    async def run(self, client: httpx.AsyncClient, kind: Any, pause_s: float) -> None:
        while not self.stopped:
            try:
                await kind(client)
            except httpx.TransportError as error:
                self.refused.append(repr(error))
            await asyncio.sleep(pause_s)

    def _any(self) -> str:
        return random.choice(self.urls)


async def _undisturbed(client: httpx.AsyncClient, url: str) -> dict[int, list[tuple[int, float]]]:
    return {seed: figures((await client.post(f"{url}/v1/generations", json=asked(seed))).json()) for seed in SEEDS}


async def _killing(pair: list[Replica], kills: int) -> None:
    for turn in range(kills):
        await asyncio.sleep(random.uniform(0.3, 1.5))
        victim = pair[turn % len(pair)]
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(random.uniform(0.0, 0.5))
        await asyncio.to_thread(victim.start)


@pytest.mark.soak
def test_killed_replicas_lose_nothing(stores: Stores, tmp_path: Path) -> None:
    asyncio.run(_killed(stores, tmp_path))


async def _killed(stores: Stores, tmp_path: Path) -> None:
    with replicas(tmp_path, delay_s=0.02, settings={"ATTEMPTS": "10", **stores.settings}) as pair:
        async with httpx.AsyncClient(timeout=PATIENCE_S, headers=await stores.key()) as client:
            load = Load([replica.url for replica in pair])
            load.expected = await _undisturbed(client, pair[0].url)
            kinds = [(load.submit, 0.3)] * 3 + [(load.wait, 0.05)] * 3
            running = [asyncio.create_task(load.run(client, kind, pause)) for kind, pause in kinds]
            await _killing(pair, KILLS[bool(stores.settings)])
            load.stopped = True
            await asyncio.gather(*running)
            for name, seed in load.accepted.items():
                body = await ended(client, pair[0].url, name)
                assert body["status"] == "succeeded", body
                assert figures(body) == load.expected[seed]
            assert load.failed == []
            assert len(load.accepted) > 10
        until_idle = time.monotonic() + PATIENCE_S
        while await stores.rows("SELECT id FROM generations WHERE status IN ('queued', 'running')"):
            assert time.monotonic() < until_idle
            await asyncio.sleep(0.2)
    made, used = "SELECT sum(candidates) FROM generations", "SELECT used FROM api_key_usage"
    assert await stores.rows(used) == await stores.rows(made), "each was counted once"
    await _nothing_is_left_over(stores)


async def _nothing_is_left_over(stores: Stores) -> None:
    assert await stores.rows("SELECT id FROM generations WHERE claim IS NOT NULL OR lease_until IS NOT NULL") == []
    closed = "SELECT generation_id FROM events WHERE kind IN ('succeeded', 'failed', 'cancelled')"
    assert await stores.rows(f"{closed} GROUP BY generation_id HAVING count(*) <> 1") == []
    orphans = "SELECT generation_id FROM events WHERE generation_id NOT IN (SELECT id FROM generations)"
    assert await stores.rows(orphans) == []
    known = {row[0] for row in await stores.rows("SELECT id FROM generations")}
    files = set(stores.files()) - {MARK}
    assert {path.split("/")[1] for path in files} <= known
    assert stores.unfinished() == []


@pytest.mark.soak
def test_rolling_restart_fails_no_request(stores: Stores, tmp_path: Path) -> None:
    asyncio.run(_rolled(stores, tmp_path))


async def _rolled(stores: Stores, tmp_path: Path) -> None:
    with (
        replicas(tmp_path, delay_s=0.001, settings={"NOTICE_S": "3", "DRAIN_S": "5", **stores.settings}) as pair,
        running_haproxy([replica.port for replica in pair], tmp_path) as url,
    ):
        async with httpx.AsyncClient(timeout=PATIENCE_S, limits=httpx.Limits(max_connections=40)) as client:
            load = Load([url])
            load.expected = await _undisturbed(client, url)
            kinds = [load.submit] * 2 + [load.wait] * 3 + [load.stream] * 2
            running = [asyncio.create_task(load.run(client, kind, 0.005)) for kind in kinds]
            for replica in pair:
                await asyncio.sleep(1)
                assert await asyncio.to_thread(replica.stop) == 0
                await asyncio.to_thread(replica.start)
                await asyncio.sleep(1)
            while load.sent < 1000 and not load.failed + load.refused:
                await asyncio.sleep(0.1)
            load.stopped = True
            await asyncio.gather(*running)
            assert load.failed + load.refused == []
            assert load.sent >= 1000
            for name in load.accepted:
                assert (await ended(client, url, name))["status"] == "succeeded"
    await _nothing_is_left_over(stores)


def test_two_hundred_submits_over_fifty_keys_make_fifty(stores: Stores, tmp_path: Path) -> None:
    asyncio.run(_keyed(stores, tmp_path))


async def _keyed(stores: Stores, tmp_path: Path) -> None:
    with replicas(tmp_path, delay_s=0.0, settings=stores.settings) as pair:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:

            async def submit(turn: int) -> httpx.Response:
                headers = {**ASYNC, "idempotency-key": f"key-{turn % 50}"}
                body = asked(turn % 50, n_candidates=1, steps=1)
                return await client.post(f"{pair[turn // 50 % 2].url}/v1/generations", json=body, headers=headers)

            answers = await asyncio.gather(*(submit(turn) for turn in range(200)))
            assert {answer.status_code for answer in answers} == {202}
            names = [answer.json()["id"] for answer in answers]
            assert [len({names[i] for i in range(key, 200, 50)}) for key in range(50)] == [1] * 50
            for name in set(names):
                assert (await ended(client, pair[0].url, name))["status"] == "succeeded"
            assert (await stores.rows("SELECT count(*) FROM generations"))[0][0] == 50
            headers = {"idempotency-key": '"key-7"'}
            replayed = await client.post(
                f"{pair[1].url}/v1/generations", json=asked(7, n_candidates=1, steps=1), headers=headers
            )
            assert replayed.json()["id"] == names[7]
            other = await client.post(f"{pair[0].url}/v1/generations", json=asked(8), headers=headers)
            assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


@pytest.mark.torch
@pytest.mark.soak
def test_a_race_of_the_pack_outlives_its_replica(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asyncio.run(_handed_over(tmp_path))


async def _handed_over(folder: Path) -> None:
    with (
        replicas(folder, delay_s=None, settings={"LEASE_S": "5"}) as pair,
        running_haproxy([replica.port for replica in pair], folder) as url,
    ):
        async with httpx.AsyncClient(base_url=url, timeout=240) as client:
            body = asked(7, n_candidates=16, steps=16)
            whole = figures((await client.post("/v1/generations", json=body)).json())
            name = (await client.post("/v1/generations", json=body, headers=ASYNC)).json()["id"]
            await _running(client, name)
            victim = await _at_work(client, pair)
            await asyncio.to_thread(victim.kill)
            taken_over = await ended(client, url, name, 240)
            assert taken_over["status"] == "succeeded"
            assert figures(taken_over) == whole
            events = (await client.get(f"/v1/generations/{name}/events")).text
            assert events.count("event: started") == 2
            best = taken_over["data"][0]["url"]
            assert (await client.get(best)).content[1:4] == b"PNG"


async def _running(client: httpx.AsyncClient, name: str) -> None:
    """Return when the generation and its log say that it was started."""
    deadline = time.monotonic() + PATIENCE_S
    while (await client.get(f"/v1/generations/{name}")).json()["status"] != "running":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def _at_work(client: httpx.AsyncClient, pair: list[Replica]) -> Replica:
    """The replica that denoises something."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for replica in pair:
            told = (await client.get(f"{replica.url}/metrics")).text.splitlines()
            if any(line.startswith("frontrunner_live_rows") and float(line.split()[-1]) > 0 for line in told):
                return replica
        await asyncio.sleep(0.02)
    raise AssertionError("neither replica does anything")
