"""PostgreSQL behind PgBouncer: every transaction works, and replicas poll where notifications do not arrive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.domain import Status
from app.errors import StoreUnavailable
from app.service import GenerationParams
from app.stores.connections import Connections, DatabaseOptions, server
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claim
from tests.servers import PostgreSQL, running_pgbouncer
from tests.unit.service_kit import House, house
from tests.unit.store_kit import MINE, STEP, generation, opened

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@asynccontextmanager
async def pooled(server: PostgreSQL, mode: str, pool: int) -> AsyncIterator[str]:
    """The URL of a new database through a pooler."""
    name = (await asyncio.to_thread(server.database)).rpartition("/")[2]
    with running_pgbouncer(server, mode, pool) as port:
        yield f"postgresql://tester@127.0.0.1:{port}/{name}"


async def _until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


def _counted(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[object]:
    """One entry for each call of a method from now on."""
    calls: list[object] = []
    original = getattr(kind, name)

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        return original(*given, **named)

    monkeypatch.setattr(kind, name, counted)
    return calls


async def _life(store: SqlGenerationStore, name: str) -> None:
    await store.create(generation(name), [STEP], Claim(name, 60))
    assert await store.append(name, [STEP] * 2, Claim(name, 60))
    assert await store.save(generation(name, Status.SUCCEEDED), [STEP], Claim(name, 60))
    assert [event.seq for event in await store.events(name, 0)] == [1, 2, 3, 4]


async def test_no_transaction_fails_when_each_may_get_another_connection(postgresql: PostgreSQL) -> None:
    async with pooled(postgresql, "transaction", 3) as url:
        for turn in range(3):
            async with opened(url) as one, opened(url) as two:
                assert one.connections.pooled
                names = [f"gen_{turn}_{place}" for place in range(32)]
                await asyncio.gather(*(_life((one, two)[i % 2], name) for i, name in enumerate(names)))


async def test_a_server_of_its_own_is_no_pooler(postgresql: PostgreSQL) -> None:
    async with opened(await asyncio.to_thread(postgresql.database)) as store:
        assert not store.connections.pooled


async def test_what_no_notification_reaches_is_polled_and_says_what_to_set(
    postgresql: PostgreSQL, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ECHO_S", 0.5)
    monkeypatch.setattr(server, "SILENCE_RETRY_S", 0.05)
    caplog.set_level(logging.WARNING)
    async with (
        pooled(postgresql, "transaction", 3) as url,
        house(tmp_path, url=url) as one,
        house(tmp_path, url=url) as two,
        _working(two),
    ):
        tried = _counted(monkeypatch, server.PostgresqlServer, "_receive")
        await _until(lambda: "pool_mode = session" in caplog.text and len(tried) >= 3)
        assert caplog.text.count("notifications do not arrive") == 1, "said once, however often it is tried"
        assert not two.records.notifies
        running = await one.service.submit(GenerationParams("x", n_candidates=2, steps=4))
        assert (await two.service.wait(running.id)).status is Status.SUCCEEDED


@asynccontextmanager
async def _working(there: House) -> AsyncIterator[None]:
    task = asyncio.create_task(there.service.run_worker())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_pooler_that_leaves_a_session_its_connection_passes_them_on(postgresql: PostgreSQL) -> None:
    async with pooled(postgresql, "session", 30) as url, opened(url) as one, opened(url) as two:
        told: asyncio.Queue[str] = asyncio.Queue()
        listening = asyncio.create_task(two.listen(told.put_nowait))
        await _until(lambda: two.notifies)
        await one.create(generation(), [STEP], MINE)
        await one.save(generation(status=Status.SUCCEEDED), [], MINE)
        assert [await asyncio.wait_for(told.get(), 30) for _ in range(2)] == ["", "gen_a"]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert not two.notifies


@asynccontextmanager
async def _told(store: SqlGenerationStore) -> AsyncIterator[asyncio.Queue[str]]:
    """What a store is notified of during the block."""
    told: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(store.listen(told.put_nowait))
    try:
        yield told
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_notifications_come_past_a_pooler_by_an_address_of_their_own(postgresql: PostgreSQL) -> None:
    async with pooled(postgresql, "transaction", 3) as url:
        direct = postgresql.url(url.rpartition("/")[2])
        store = await SqlGenerationStore.open(url, options=DatabaseOptions(listen_url=direct))
        async with _told(store) as told:
            await _until(lambda: store.notifies)
            async with opened(url) as other:
                await other.create(generation(), [STEP], MINE)
                await other.save(generation(status=Status.SUCCEEDED), [], MINE)
            assert [await asyncio.wait_for(told.get(), 30) for _ in range(2)] == ["", "gen_a"]
        await store.close()


def _tried_in_vain(store: SqlGenerationStore, tried: list[object], before: int) -> bool:
    return not store.notifies and len(tried) >= before + 2


async def test_notifications_that_stop_are_noticed_and_found_again(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("ECHO_S", 0.5), ("LISTEN_CHECK_S", 0.05), ("SILENCE_RETRY_S", 0.05)):
        monkeypatch.setattr(server, name, seconds)
    caplog.set_level(logging.WARNING)
    swallowed, send = asyncio.Event(), Connections._notify

    async def notify(connections: Connections, payload: str) -> None:
        if not swallowed.is_set():
            await send(connections, payload)

    monkeypatch.setattr(Connections, "_notify", notify)
    tried = _counted(monkeypatch, server.PostgresqlServer, "_receive")
    async with opened(await asyncio.to_thread(postgresql.database)) as store, _told(store):
        for silence in (1, 2):
            await _until(lambda: store.notifies)
            swallowed.set()
            await _until(partial(_tried_in_vain, store, tried, len(tried)))
            swallowed.clear()
            assert caplog.text.count("notifications do not arrive") == silence
        await _until(lambda: store.notifies)


async def test_an_address_for_notifications_that_leads_nowhere_is_said_once(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "RECONNECT_S", 0.01)
    caplog.set_level(logging.WARNING)
    url = await asyncio.to_thread(postgresql.database)
    options = DatabaseOptions(listen_url="postgresql://tester@127.0.0.1:1/nowhere")
    store = await SqlGenerationStore.open(url, options=options)
    tried = _counted(monkeypatch, server.PostgresqlServer, "connect")
    async with _told(store):
        await _until(lambda: len(tried) >= 3)
        await _life(store, "gen_a")
    assert caplog.text.count("FRONTRUNNER_DATABASE_LISTEN_URL") == 1
    assert not store.notifies
    await store.close()


@pytest.mark.parametrize("size", [1, 3])
async def test_a_pool_opens_no_more_connections_than_it_may(postgresql: PostgreSQL, size: int) -> None:
    url = await asyncio.to_thread(postgresql.database)
    store = await SqlGenerationStore.open(url, options=DatabaseOptions(size))
    await asyncio.gather(*(_life(store, f"gen_{place}") for place in range(16)))
    query = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    async with opened(url) as other:
        open_now = await other.connections.read(lambda connection: connection.execute(query).scalar_one())
    assert size <= open_now - 1 <= size + 1, "the pool, and what another store uses"
    await store.close()


@pytest.mark.parametrize(("size", "level"), [(10, logging.INFO), (200, logging.WARNING)])
async def test_the_sum_of_connections_is_compared_with_the_server(
    postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture, size: int, level: int
) -> None:
    caplog.set_level(logging.INFO)
    url = await asyncio.to_thread(postgresql.database)
    await (await SqlGenerationStore.open(url, options=DatabaseOptions(size))).close()
    (said,) = [record for record in caplog.records if "PostgreSQL connections" in record.getMessage()]
    assert said.levelno == level
    assert f"up to {size + 2} PostgreSQL connections" in said.getMessage()
    assert f"the server allows 97: enough for {97 // (size + 2)} replicas" in said.getMessage()


async def test_options_of_other_drivers_in_a_providers_url_do_no_harm(postgresql: PostgreSQL) -> None:
    options = "sslmode=prefer&channel_binding=prefer&pgbouncer=true&connection_limit=1&connect_timeout=10"
    async with opened(f"{await asyncio.to_thread(postgresql.database)}?{options}") as store:
        await _life(store, "gen_a")


async def test_a_database_that_cannot_be_used_says_what_to_change(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await asyncio.to_thread(postgresql.database)
    await asyncio.to_thread(postgresql.execute, "CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    async with pooled(postgresql, "transaction", 2) as through:
        for address, advice in (
            (postgresql.url("nowhere"), "create it, or correct database_url"),
            (f"{url}?nonsense=1", "refuses an option of database_url"),
            (f"{through}?nonsense=1", "ignore_startup_parameters"),
            (url.replace("tester@", "few@"), "lower FRONTRUNNER_DATABASE_CONNECTIONS"),
            (url.replace("tester@", "who@"), "refuses the user or the password"),
        ):
            with pytest.raises(StoreUnavailable, match=advice):
                await SqlGenerationStore.open(address)
    standby = server._INSPECT.replace("pg_is_in_recovery()", "true")
    monkeypatch.setattr(server, "_INSPECT", standby)
    with pytest.raises(StoreUnavailable, match="set database_url to the primary server"):
        await SqlGenerationStore.open(url)
