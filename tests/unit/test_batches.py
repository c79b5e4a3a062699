"""Batches: their entries wait behind requests, on any replica, and end once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.domain import Batch, BatchCounts, RefusedEntry, Status
from app.errors import NotFound, QuotaExceeded
from app.service import (
    Caller,
    GenerationParams,
    IdempotencyKey,
    LeasePolicy,
    Permission,
    PreparedGeneration,
    as_caller,
    create_api_key,
)
from app.service.generations.queue_worker import BATCH_SHARE
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlBatchStore
from app.stores.protocols import PageMark
from tests.unit.service_kit import House, house

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]


@asynccontextmanager
async def working(*houses: House) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.service.run_worker()) for one in houses]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def prepared(h: House, count: int, **params: Any) -> list[tuple[int, PreparedGeneration]]:
    asked = {"n_candidates": 2, "steps": 3, **params}
    return [(i, await h.service.prepare(GenerationParams("a red apple", seed=i, **asked))) for i in range(count)]


async def submitted(h: House, count: int, **params: Any) -> str:
    return await h.batches.submit(await prepared(h, count, **params), [], None)


async def ended(h: House, batch_id: str) -> tuple[Batch, BatchCounts]:
    async with asyncio.timeout(60):
        while True:
            batch, counts = await h.batches.get(batch_id)
            if batch.status is not None:
                return batch, counts
            await asyncio.sleep(0.02)


async def test_a_batch_makes_all_its_entries(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as h:
        batch_id = await submitted(h, 5)
        batch, counts = await h.batches.get(batch_id)
        assert counts == BatchCounts(5, queued=5)
        assert (batch.finished, counts.status(cancelled=False)) == (None, Status.QUEUED)
        async with working(h):
            batch, counts = await ended(h, batch_id)
        assert (batch.status, counts) == (Status.SUCCEEDED, BatchCounts(5, succeeded=5))
        entries = await h.batches.entries(batch_id)
        assert [entry.index for entry in entries] == list(range(5))
        alone = await h.service.get(await h.made(n_candidates=2, steps=3, seed=3))
        third = await h.service.get(entries[3].generation_id)
        assert [c.score for c in third.candidates] == [c.score for c in alone.candidates]
        assert third.batch == batch_id


async def test_two_replicas_share_a_batch_and_end_it_once(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url, delay_s=0.01) as one, house(tmp_path, url=url, delay_s=0.01) as two:
        batch_id = await submitted(one, 12)
        async with working(one, two):
            batch, counts = await ended(two, batch_id)
        assert (batch.status, counts.succeeded) == (Status.SUCCEEDED, 12)
        assert sum(h.service.outcomes().get("succeeded", 0) for h in (one, two)) == 12


async def test_requests_go_before_entries_and_entries_hold_a_share(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as h:
        capacity = h.service.stats().capacity
        most = capacity // BATCH_SHARE
        batch_id = await submitted(h, capacity // 8 + 4, n_candidates=8, steps=10)
        async with working(h):
            async with asyncio.timeout(60):
                while h.service.stats().held == 0:
                    await asyncio.sleep(0.01)
            assert h.service.stats().held <= most
            made = await h.service.submit(GenerationParams("x", n_candidates=4, steps=2))
            assert (await h.service.wait(made.id)).status is Status.SUCCEEDED
            _, counts = await h.batches.get(batch_id)
            assert counts.queued > 0
            assert h.service.stats().held <= most
            await h.batches.cancel(batch_id)


async def test_one_entry_runs_beside_requests(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as h:
        running = await h.service.submit(GenerationParams("x", n_candidates=2, steps=150))
        batch_id = await submitted(h, 6)
        seen = set()
        async with working(h):
            while not (await h.service.get(running.id)).status.is_final:
                _, counts = await h.batches.get(batch_id)
                seen.add(counts.running)
                if counts.succeeded > 2:
                    break
                await asyncio.sleep(0.005)
            assert max(seen) <= 1
            await h.service.cancel(running.id)
            assert (await ended(h, batch_id))[1].succeeded == 6


async def test_owners_take_turns(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as h:
        first = await submitted(h, 4)
        key, _ = create_api_key("other", [Permission.GENERATE], None, 3600)
        with as_caller(Caller(key, h.records.clock)):
            second = await submitted(h, 4)
        store = SqlBatchStore(h.records)
        generator, scorer = h.service.models()
        models = generator.id, scorer.id
        order = []
        for _ in range(4):
            entry = await store.next_entry(*models, 99, 60)
            assert entry is not None
            claimed = await store.claim(entry.generation_id, h.service._worker.new_claim())
            assert claimed is not None
            assert await store.claim(entry.generation_id, h.service._worker.new_claim()) is None
            order.append((claimed.generation.batch, claimed.generation.batch_index))
        assert sorted(order) == sorted([(first, 0), (first, 1), (second, 0), (second, 1)])
        assert order[0][0] != order[1][0]
        assert order[2][0] != order[3][0]
        assert await store.next_entry(*models, 1, 60) is None


async def test_the_entries_of_a_lost_replica_are_taken_over(tmp_path: Path, url: str) -> None:
    lease = LeasePolicy(lease_s=1.0)
    async with house(tmp_path, url=url) as two:
        async with house(tmp_path, url=url, delay_s=0.3, lease_policy=lease) as one:
            batch_id = await submitted(one, 3, steps=60)
            async with working(one), asyncio.timeout(60):
                while not (await two.batches.get(batch_id))[1].running:
                    await asyncio.sleep(0.02)
            for _, task in list(one.service._recordings._recordings.values()):
                task.cancel()  # as if the process had died: nothing is released
            async with working(two):
                batch, counts = await ended(two, batch_id)
        assert (batch.status, counts.succeeded) == (Status.SUCCEEDED, 3)


async def test_entries_that_wait_for_room_begin_when_a_request_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.generations.queue_worker.QUEUE_POLL_INTERVAL_S", 600.0)
    async with house(tmp_path, delay_s=0.01) as h:
        capacity = h.service._engine.stats().capacity
        held = [await h.service.submit(GenerationParams("x", n_candidates=64, steps=2)) for _ in range(capacity // 64)]
        batch_id = await submitted(h, 2, n_candidates=64)
        async with working(h):
            batch, counts = await ended(h, batch_id)
            assert (batch.status, counts.succeeded) == (Status.SUCCEEDED, 2)
        assert [(await h.service.get(one.id)).status for one in held] == [Status.SUCCEEDED] * len(held)


async def test_cancelling_keeps_what_is_done(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url, delay_s=0.02) as h:
        batch_id = await submitted(h, 40, n_candidates=16, steps=6)
        async with working(h), asyncio.timeout(60):
            while not (await h.batches.get(batch_id))[1].succeeded:
                await asyncio.sleep(0.02)
            await h.batches.cancel(batch_id)
        batch, counts = await h.batches.get(batch_id)
        assert (batch.status, batch.cancelled is not None) == (Status.CANCELLED, True)
        assert counts.succeeded > 0
        assert counts.cancelled > 0
        assert counts.succeeded + counts.cancelled == 40
        await h.batches.cancel(batch_id)
        assert (await h.batches.get(batch_id))[0] == batch


async def test_deleting_leaves_nothing(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as h:
        batch_id = await submitted(h, 3)
        async with working(h):
            await ended(h, batch_id)
        names = [entry.generation_id for entry in await h.batches.entries(batch_id)]
        await h.batches.delete(batch_id)
        with pytest.raises(NotFound):
            await h.batches.get(batch_id)
        assert await h.records.existing_ids(names) == set()
        assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file() and path.parent.name in names]


async def test_entries_live_as_long_as_their_batch(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        batch_id = await submitted(h, 2)
        await asyncio.sleep(0.05)
        async with working(h):
            await ended(h, batch_id)
        await h.service.purge_expired(0.0)
        assert len(await h.batches.entries(batch_id)) == 2
        assert await h.batches.purge_expired(3600) == 0
        await asyncio.sleep(0.02)
        assert await h.batches.purge_expired(0.0) == 1
        assert await h.batches.entries(batch_id) == []


async def test_deleted_and_refused_entries_are_counted(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as h:
        refused = [RefusedEntry(2, "invalid_request", "no", "#/requests/2/steps")]
        batch_id = await h.batches.submit(await prepared(h, 2), refused, None)
        first, second = [entry.generation_id for entry in await h.batches.entries(batch_id)]
        await h.service.delete(first)
        _, counts = await h.batches.get(batch_id)
        assert counts == BatchCounts(3, queued=1, refused=1, deleted=1)
        await h.service.delete(second)
        batch, counts = await h.batches.get(batch_id)
        assert (batch.status, counts) == (Status.FAILED, BatchCounts(3, refused=1, deleted=2))
        assert batch.refused == tuple(refused)


async def test_the_quota_is_charged_whole_and_given_back(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as h:
        key, _ = create_api_key("one", [Permission.GENERATE], 10, 10**9)
        await SqlApiKeyStore(h.records.connections).add(key)
        caller = Caller(key, h.records.clock)

        async def used() -> int:
            return await h.records.quota_used(key.id, caller.window)

        with as_caller(caller):
            entries = await prepared(h, 4)
            batch_id = await h.batches.submit(entries, [], None)
            assert await used() == 8
            with pytest.raises(QuotaExceeded):
                await submitted(h, 2)
            assert await used() == 8
            assert len((await h.batches.find(None, 9))[0]) == 1
            await h.batches.cancel(batch_id)
            assert await used() == 0
            again = await submitted(h, 5)
            async with working(h):
                assert (await ended(h, again))[1].succeeded == 5
            assert await used() == 10


async def test_a_key_names_one_batch(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url) as one, house(tmp_path, url=url) as two:
        key = IdempotencyKey("once", "print")
        assert await one.batches.find_earlier(key) is None
        first = await one.batches.submit(await prepared(one, 2), [], None, key)
        assert await two.batches.submit(await prepared(two, 2), [], None, key) == first
        assert await two.batches.find_earlier(key) == first
        found, more = await two.batches.find(None, 1)
        assert ([batch.id for batch, _ in found], more) == ([first], False)
        assert await two.batches.find(PageMark(found[0][0].created, first), 1) == ([], False)
