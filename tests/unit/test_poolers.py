"""PostgreSQL behind PgBouncer: every transaction works, and replicas poll where notifications do not arrive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.domain import Status
from app.service import GenerationParams
from app.stores import connections
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claim
from tests.servers import PostgreSQL, running_pgbouncer
from tests.unit.service_kit import House, house
from tests.unit.store_kit import MINE, STEP, generation, opened

pytestmark = pytest.mark.anyio


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
    monkeypatch.setattr(connections, "ECHO_S", 0.5)
    caplog.set_level(logging.WARNING)
    async with (
        pooled(postgresql, "transaction", 3) as url,
        house(tmp_path, url=url) as one,
        house(tmp_path, url=url) as two,
        _working(two),
    ):
        await _until(lambda: "pool_mode = session" in caplog.text)
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
        assert [await asyncio.wait_for(told.get(), 30) for _ in range(2)] == ["", "gen_a"]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert not two.notifies
