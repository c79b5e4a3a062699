"""The table of generations as a queue: claims, leases, fences, idempotency keys, and what PostgreSQL tells."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from app.domain import EventKind, Status
from app.errors import StoreUnavailable
from app.stores.generations import SqlGenerationStore
from app.stores.generations.writes import SEQ_BLOCK
from app.stores.models import SqlServedModelStore
from app.stores.protocols import Claim, Claimed, IdempotencyMatch, KeyRecord, NewEvent, QueueFull, ServedModelRow
from tests.servers import PostgreSQL
from tests.unit.store_kit import MINE, STEP, THEIRS, generation, opened

pytestmark = pytest.mark.slow


@pytest.mark.anyio
async def test_only_who_has_the_claim_writes(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], MINE)
    assert not await records.append("gen_a", [STEP], THEIRS)
    assert not await records.save(generation(status=Status.FAILED), [STEP], THEIRS)
    assert not await records.release(generation(), THEIRS)
    assert await records.save(generation(status=Status.SUCCEEDED), [STEP], MINE)
    assert not await records.append("gen_a", [STEP], MINE)
    assert [e.seq for e in await records.events("gen_a", 0)] == [1, 2]
    found = await records.get("gen_a")
    assert found is not None
    assert found.status is Status.SUCCEEDED


@pytest.mark.anyio
async def test_the_oldest_that_nobody_has_is_claimed_first(records: SqlGenerationStore) -> None:
    await records.create(generation("gen_mine", created=1), [], MINE)
    await records.create(generation("gen_new", created=3), [], None)
    await records.create(generation("gen_old", created=2), [], None)
    await records.create(generation("gen_done", Status.FAILED, created=1), [], None)
    assert await records.claim("other", "pictogram", 9, THEIRS) is None
    assert await records.claim("pictogram", "other", 9, THEIRS) is None
    assert await records.claim("pictogram", "pictogram", 1, THEIRS) is None
    found = await records.claim("pictogram", "pictogram", 2, THEIRS)
    assert found == Claimed(generation("gen_old", created=2), 1, 0)
    assert await records.append("gen_old", [], THEIRS)
    assert await records.release(generation("gen_old", created=2), THEIRS)
    again = await records.claim("pictogram", "pictogram", 2, MINE)
    assert again == Claimed(generation("gen_old", created=2), 1, 0), "what was given back does not count"


@pytest.mark.anyio
async def test_models_of_what_waits_or_lapsed_are_told(records: SqlGenerationStore) -> None:
    for name, claim in (("waits", None), ("lapsed", Claim("gone", -1.0)), ("claimed", MINE), ("ended", MINE)):
        await records.create(replace(generation(f"gen_{name}"), model=name), [], claim)
    await records.save(replace(generation("gen_ended", Status.FAILED), model="ended"), [], MINE)
    assert await records.waiting_models(60.0) == {"waits", "lapsed"}


@pytest.mark.anyio
async def test_a_claim_that_lapsed_is_taken_over(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], MINE)
    assert await records.claim("pictogram", "pictogram", 9, THEIRS) is None
    assert await records.append("gen_a", [], Claim("mine", 0.0))
    await asyncio.sleep(0.05)
    assert await records.claim("pictogram", "pictogram", 9, THEIRS) == Claimed(generation(), 2, 1 + SEQ_BLOCK)
    assert not await records.append("gen_a", [STEP], MINE)
    assert await records.append("gen_a", [STEP], THEIRS)


@pytest.mark.anyio
async def test_a_live_claim_is_safe_from_replicas_with_shorter_ones(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], Claim("mine", 3600))
    assert await records.claim("pictogram", "pictogram", 9, Claim("theirs", 1)) is None
    assert await records.append("gen_a", [], Claim("mine", 3600))
    assert await records.claim("pictogram", "pictogram", 9, Claim("theirs", 1)) is None


@pytest.mark.anyio
async def test_a_claim_of_before_its_length_was_kept_lapses_too(file_url: str) -> None:
    store = await SqlGenerationStore.open(file_url, monotonic=lambda: 1e6)
    await store.create(generation(), [], MINE)
    await store.connections.write(lambda connection: connection.execute(text("UPDATE generations SET lease_s = NULL")))
    assert await store.claim("pictogram", "pictogram", 9, THEIRS) is None
    await store.close()
    store = await SqlGenerationStore.open(file_url, monotonic=lambda: 5.0)
    assert await store.claim("pictogram", "pictogram", 9, THEIRS) == Claimed(generation(), 2, SEQ_BLOCK)
    await store.close()


@pytest.mark.anyio
async def test_a_claim_of_an_earlier_boot_has_lapsed(file_url: str) -> None:
    store = await SqlGenerationStore.open(file_url, monotonic=lambda: 1e6)
    await store.create(generation(), [], MINE)
    await store.close()
    store = await SqlGenerationStore.open(file_url, monotonic=lambda: 5.0)
    assert await store.claim("pictogram", "pictogram", 9, THEIRS) == Claimed(generation(), 2, SEQ_BLOCK)
    assert await store.claim("pictogram", "pictogram", 9, MINE) is None
    await store.close()


@pytest.mark.anyio
async def test_what_is_settled_stays_so(records: SqlGenerationStore) -> None:
    await records.create(generation(), [], MINE)
    gone = generation(status=Status.CANCELLED)
    assert await records.settle(gone, [NewEvent(EventKind.CANCELLED, {})])
    assert not await records.settle(gone, [NewEvent(EventKind.CANCELLED, {})])
    assert not await records.save(generation(status=Status.SUCCEEDED), [STEP], MINE)
    assert await records.get("gen_a") == gone
    assert not await records.settle(generation("gen_b"), [])


@pytest.mark.anyio
async def test_no_more_wait_than_there_is_room_for(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        await one.create(generation("gen_claimed"), [], MINE, room=2)
        await one.create(generation("gen_done", Status.FAILED), [], None, room=2)
        submits = [
            store.create(generation(f"gen_{turn}_{place}"), [STEP], None, room=11)
            for turn, store in enumerate((one, two) * 2)
            for place in range(10)
        ]
        answers = await asyncio.gather(*submits, return_exceptions=True)
        assert sum(answer is None for answer in answers) == 5, "two candidates each"
        assert sum(isinstance(answer, QueueFull) for answer in answers) == 35
        assert await one.claim("pictogram", "pictogram", 9, MINE) is not None
        assert await two.create(generation("gen_next"), [], None, room=11) is None
        assert await one.get("gen_next") is not None


@pytest.mark.anyio
async def test_each_is_claimed_once_by_many(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        for place in range(30):
            await one.create(generation(f"gen_{place}", created=place), [], None)

        async def worker(store: SqlGenerationStore, name: str) -> list[str]:
            mine = []
            while (found := await store.claim("pictogram", "pictogram", 9, Claim(name, 60))) is not None:
                mine.append(found.generation.id)
            return mine

        shares = await asyncio.gather(*(worker(store, f"w{place}") for place, store in enumerate((one, two) * 2)))
        assert sorted(name for share in shares for name in share) == sorted(f"gen_{place}" for place in range(30))


@pytest.mark.anyio
async def test_the_first_with_a_key_has_it(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        submits = [
            store.create(generation(f"gen_{turn}_{key}"), [STEP], MINE, KeyRecord("me", str(key), "print"))
            for turn, store in enumerate((one, two) * 2)
            for key in range(50)
        ]
        answers = await asyncio.gather(*submits)
        assert sum(earlier is None for earlier in answers) == 50
        assert await one.claim("pictogram", "pictogram", 9, THEIRS) is None
        first = await one.find_idempotent("me", "7")
        assert first is not None
        assert first.fingerprint == "print"
        assert await two.create(generation("gen_x"), [], MINE, KeyRecord("me", "7", "other")) == first
        assert await two.get("gen_x") is None
        assert await two.create(generation("gen_x"), [], MINE, KeyRecord("you", "7", "other")) is None
        assert await one.find_idempotent("you", "7") == IdempotencyMatch("gen_x", "other")
        assert await one.delete("gen_x")
        assert await one.find_idempotent("you", "7") is None


@pytest.mark.anyio
async def test_postgresql_tells_of_the_queue_and_of_ends(postgresql: PostgreSQL) -> None:
    url = await asyncio.to_thread(postgresql.database)
    async with opened(url) as one, opened(url) as two:
        told: asyncio.Queue[str] = asyncio.Queue()
        listening = asyncio.create_task(two.listen(told.put_nowait))
        assert await asyncio.wait_for(told.get(), 30) == ""
        assert two.notifies
        await one.create(generation(), [STEP], None)
        await one.claim("pictogram", "pictogram", 9, MINE)
        await one.append("gen_a", [], MINE)
        await one.append("gen_a", [STEP], MINE)
        await one.save(generation(), [STEP], MINE)
        await one.release(generation(), MINE)
        await one.claim("pictogram", "pictogram", 9, MINE)
        await one.save(generation(status=Status.SUCCEEDED), [STEP], MINE)
        await one.delete("gen_a")
        assert [await asyncio.wait_for(told.get(), 30) for _ in range(4)] == ["", "", "gen_a", "gen_a"]
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert not two.notifies


@pytest.mark.anyio
async def test_postgresql_tells_of_models_that_replicas_announce_and_withdraw(postgresql: PostgreSQL) -> None:
    url = await asyncio.to_thread(postgresql.database)
    async with opened(url) as one, opened(url) as two:
        told: asyncio.Queue[str] = asyncio.Queue()
        listening = asyncio.create_task(two.listen(told.put_nowait))
        assert await asyncio.wait_for(told.get(), 30) == ""
        served = SqlServedModelStore(one)
        waiting, loaded = (ServedModelRow("r", "pictogram", state, "", "1") for state in ("loading", "loaded"))
        for rows in ([waiting], [loaded], [loaded], [replace(loaded, weights="2")], []):
            await served.publish("r", rows)
        await one.create(generation("gen_end"), [STEP], None)
        heard = [await asyncio.wait_for(told.get(), 30) for _ in range(7)]
        assert heard == ["models", "models", "models", "", "models", "", ""]
        assert told.empty()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.anyio
async def test_an_address_is_read_as_postgresqls_own_tools_read_it(postgresql: PostgreSQL) -> None:
    url = await asyncio.to_thread(postgresql.database)
    async with opened(f"{url}?sslmode=prefer&application_name=frontrunner") as store:
        await store.create(generation(), [STEP], None)
        assert await store.get("gen_a") is not None
    with pytest.raises(StoreUnavailable):
        await SqlGenerationStore.open(f"{url}?sslmode=require")
