"""Whose weights run what is queued: work for earlier weights of a model is left to a replica that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain import Status
from app.errors import StoreUnavailable
from app.service import GenerationParams
from app.service.serving import Announcement
from app.service.serving import announcement as announcements
from app.stores.generations import SqlBatchStore, SqlGenerationStore
from app.stores.models import SqlServedModelStore
from app.stores.protocols import Claim, ServedModelRow
from tests.unit.service_kit import House, house
from tests.unit.store_kit import THEIRS, generation

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]

MODELS = "pictogram", "pictogram"


def serving(weights: str, model: str = "pictogram") -> list[ServedModelRow]:
    return [ServedModelRow("other", model, "single", "", weights)]


async def claimable(records: SqlGenerationStore, weights: str | None, lease_s: float = 60.0) -> bool:
    return await records.next_claimable(*MODELS, 9, lease_s, weights) is not None


async def test_work_for_other_weights_is_left_to_who_serves_them(records: SqlGenerationStore) -> None:
    await records.create(replace(generation(), model_revision="old"), [], None)
    served = SqlServedModelStore(records)
    assert await claimable(records, "new")
    await served.publish("other", serving("old", "another"))
    assert await claimable(records, "new")
    await served.publish("other", serving("old"))
    assert not await claimable(records, "new")
    assert await records.claim(*MODELS, 9, THEIRS, weights="new") is None
    assert await claimable(records, "old")
    assert await claimable(records, None)
    await asyncio.sleep(0.05)
    assert await claimable(records, "new", lease_s=0.01)  # it has not been seen for longer
    found = await records.claim(*MODELS, 9, Claim("theirs", 0.01), weights="new")
    assert found is not None
    assert await records.release(found.generation, Claim("theirs", 0.01))
    await served.publish("other", [])
    assert await records.claim(*MODELS, 9, THEIRS, weights="new") is not None


async def test_work_of_unknown_weights_is_anybodys(records: SqlGenerationStore) -> None:
    await records.create(generation(), [], None)
    await SqlServedModelStore(records).publish("other", serving(""))
    assert await claimable(records, "new")


async def test_so_are_entries_of_batches(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        _, scorer = there.service.models()
        entry = await there.service._admission.prepare_entry(GenerationParams("a red apple", n_candidates=2, steps=4))
        await there.batches.submit([(0, entry)], [], None)
        store, models = SqlBatchStore(there.records), (there.generator.info.id, scorer.id)
        await SqlServedModelStore(there.records).publish("other", serving("1", models[0]))
        assert await store.next_entry(*models, 9, 60.0, "2") is None
        assert await store.next_entry(*models, 9, 60.0, "1") is not None
        async with house(tmp_path, revision="2", delay_s=0.05) as two:
            await two.service.submit(GenerationParams("a red apple", n_candidates=2, steps=100))
            worker = two.service._worker
            assert not await worker._holds_back_entry(), "the end of its own work frees no room for that entry"
            await SqlServedModelStore(there.records).publish("other", [])
            assert await worker._holds_back_entry()


async def test_new_weights_run_what_earlier_ones_left_once_those_are_gone(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.05) as one, house(tmp_path, revision="2") as two:
        announcement = asyncio.create_task(_announcement(one).run())
        while not await SqlServedModelStore(one.records).live(60.0):
            await asyncio.sleep(0.01)
        older = await one.service.submit(GenerationParams("a red apple", n_candidates=2, steps=100))
        await one.service.release_claims()
        working = asyncio.create_task(two.service.run_worker())
        newer = await two.service.submit(GenerationParams("a red apple", n_candidates=2, steps=4))
        assert (await two.service.wait(newer.id)).model_revision == "2"
        handed_back = replace((await two.service.get(newer.id)), model_revision="2", status=Status.QUEUED)
        again = replace(handed_back, spec=replace(handed_back.spec, id="gen_again"))
        await two.records.create(again, [], None)
        assert (await two.service.wait("gen_again")).status is Status.SUCCEEDED
        assert (await two.service.get(older.id)).status is not Status.SUCCEEDED
        announcement.cancel()
        await asyncio.gather(announcement, return_exceptions=True)
        done = await two.service.wait(older.id)
        assert (done.status, done.model_revision) == (Status.SUCCEEDED, "2")
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _announcement(there: House) -> Announcement:
    return Announcement(there.service._engine, SqlServedModelStore(there.records), 60.0)


async def test_an_announcement_outlives_an_outage_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "RETRY_S", 0.01)
    written: list[list[ServedModelRow]] = []

    class Failing:
        failures = 2

        async def publish(self, replica: str, rows: Sequence[ServedModelRow]) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("the database is away")
            written.append(list(rows))

        async def live(self, span_s: float) -> list[ServedModelRow]:
            raise AssertionError("it only writes")

    async with house(tmp_path, revision="2") as there:
        task = asyncio.create_task(Announcement(there.service._engine, Failing(), 0.03).run())
        async with asyncio.timeout(20):
            while len(written) < 2:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert {(row.model, row.weights) for row in written[0]} == {(there.generator.info.id, "2")}
    assert written[-1] == []
