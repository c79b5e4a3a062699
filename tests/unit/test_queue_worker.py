"""Queue workers of several replicas: claims, returned and taken-over generations, final failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy import text

from app.domain import EventKind, Generation, InitImage, Ranking, Reference, Status
from app.errors import Loading, ModelAway, NotFound, Overloaded, StoreUnavailable
from app.service import CandidateArrays, GenerationParams, IdempotencyKey, LeasePolicy, Limits, RankingService
from app.service.generations import recorder
from app.service.generations.event_log import QUEUE_TOPIC, Notifier
from app.service.generations.queue_worker import WaitingModels
from app.service.types import ModelDemand
from tests.unit.service_kit import House, house
from tests.unit.store_kit import THEIRS, generation

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]


async def counted(there: House) -> Mapping[str, int]:
    """The outcomes, once there are any: they are counted a moment after the record is written."""
    async with asyncio.timeout(20):
        while not there.service.outcomes():
            await asyncio.sleep(0.01)
    return there.service.outcomes()


@pytest.mark.slow
async def test_a_clock_that_jumps_moves_no_claim(tmp_path: Path) -> None:
    lease_policy = LeasePolicy(lease_s=10.0)
    async with (
        house(tmp_path, delay_s=0.3, lease_policy=lease_policy) as one,
        house(tmp_path, lease_policy=lease_policy) as two,
    ):
        working = asyncio.create_task(two.service.run_worker())
        running = await one.service.submit(GenerationParams("x", steps=40, n_candidates=2))
        for hours in (1, -1):
            with time_machine.travel(time.time() + hours * 3600, tick=True):
                await asyncio.sleep(0.4)  # several looks at the queue
                assert not (await two.service.get(running.id)).status.is_final
        one.generator.delay_s = 0.0
        done = await one.service.wait(running.id)
        assert (done.status, done.attempts) == (Status.SUCCEEDED, 1)
        assert two.service.stats().rows_stepped == 0
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_ranking_that_two_replicas_store_with_one_key_is_stored_once(tmp_path: Path) -> None:
    async with house(tmp_path) as one, house(tmp_path) as two:
        source = await one.service.get(await one.made(n_candidates=3))
        met = asyncio.Barrier(2)

        async def kept(there: House) -> Generation:
            async def made() -> tuple[Generation, Generation]:
                await met.wait()
                return source, source

            arrays = CandidateArrays(there.service._engine, there.blobs)
            ranking = RankingService(
                there.service._engine, there.records, there.blobs, arrays, Limits(), there.service.get
            )
            return await ranking.save(made, IdempotencyKey("key", "print"))

        first, second = await asyncio.gather(kept(one), kept(two))
        assert first == second
        folders = {path.parent.name for path in (tmp_path / "blobs").rglob("*.npz")}
        assert folders == {source.id, first.id}


async def test_what_has_killed_too_often_is_failed_and_counted(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.1) as one, house(tmp_path, lease_policy=LeasePolicy(max_attempts=1)) as two:
        running = await one.service.submit(GenerationParams("x", n_candidates=1, steps=150))
        while (await two.service.get(running.id)).status is not Status.RUNNING:
            await asyncio.sleep(0.01)
        lapse = text("UPDATE generations SET lease_until = 0, claim = 'gone'")
        await one.records.connections.write(lambda connection: connection.execute(lapse))
        working = asyncio.create_task(two.service.run_worker())
        failed = await two.service.wait(running.id)
        assert failed.failure is not None
        assert (failed.status, failed.failure.code) == (Status.FAILED, "interrupted")
        assert await counted(two) == {"failed": 1}
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_who_left_stops_what_was_handed_back(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.2) as one, house(tmp_path) as two:
        running = await one.service.submit(GenerationParams("x", n_candidates=1, steps=50))
        await one.service.release_claims()
        await one.service.cancel_on_disconnect(running.id)
        assert (await two.service.get(running.id)).status is Status.CANCELLED
        assert one.service.outcomes() == {"cancelled": 1}
        await one.service.cancel_on_disconnect("gen_nobody")


async def test_what_is_handed_back_is_taken_over_with_the_same_result(tmp_path: Path) -> None:
    async with house(tmp_path) as alone:
        expected = await alone.service.get(await alone.made(n_candidates=3, steps=30))
    async with house(tmp_path, delay_s=0.3) as one, house(tmp_path) as two:
        running = await one.service.submit(GenerationParams("a red apple", n_candidates=3, seed=7, steps=30))
        waiting = asyncio.create_task(one.service.wait(running.id))
        while (await two.service.get(running.id)).status is not Status.RUNNING:
            await asyncio.sleep(0.01)
        await one.service.release_claims()
        assert (await two.service.get(running.id)).status is Status.QUEUED
        working = asyncio.create_task(two.service.run_worker())
        done = await waiting
        assert done.attempts == 1
        assert [c.score for c in done.candidates] == pytest.approx([c.score for c in expected.candidates])
        assert [e.data["attempt"] async for e in two.service.watch(running.id) if e.kind is EventKind.STARTED] == [1, 1]
        assert one.service.outcomes() == {}
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_what_ends_at_once_costs_two_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "STARTED_WRITE_DELAY_S", 10.0)
    async with house(tmp_path) as there:
        await there.made(n_candidates=1, steps=1)
        before = there.records.connections.instruments.calls["database_write"]
        await there.made(n_candidates=1, steps=1)
        assert there.records.connections.instruments.calls["database_write"] - before == 2, "its entry and its end"


@pytest.mark.slow
async def test_a_full_replica_leaves_only_what_can_wait_to_others(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as one, house(tmp_path) as two:
        for _ in range(8):
            await one.service.submit(GenerationParams("x", n_candidates=64, steps=150))
        with pytest.raises(Overloaded):
            await one.service.submit(GenerationParams("x", n_candidates=64))
        left = await one.service.submit(GenerationParams("x", n_candidates=64, steps=2), queue_if_full=True)
        working = asyncio.create_task(two.service.run_worker())
        assert (await one.service.wait(left.id)).status is Status.SUCCEEDED
        assert await counted(two) == {"succeeded": 1}
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@pytest.mark.slow
async def test_what_waits_in_the_queue_and_what_callers_bring_come_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.generations.queue_worker.QUEUE_OVERDUE_S", 0.05)
    monkeypatch.setattr("app.service.generations.queue_worker.QUEUE_POLL_INTERVAL_S", 0.02)
    async with house(tmp_path, delay_s=0.005) as h:
        working = asyncio.create_task(h.service.run_worker())
        held = [await h.service.submit(GenerationParams("x", n_candidates=64, steps=2)) for _ in range(8)]
        left = [
            await h.service.submit(GenerationParams("x", n_candidates=64, steps=2), queue_if_full=True)
            for _ in range(4)
        ]
        brought = 0
        while any([not (await h.service.get(one.id)).status.is_final for one in left]):
            try:
                held.append(await h.service.submit(GenerationParams("x", n_candidates=64, steps=2)))
                brought += 1
            except Overloaded:
                await asyncio.sleep(0.005)
        assert brought >= len(left) - 1, "callers had their turns too"
        for one in held:
            assert (await h.service.wait(one.id)).status is Status.SUCCEEDED
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _waiting(name: str, created: float = 100.0, revision: str = "", **spec: Any) -> Generation:
    """A generation for the fakes that nobody has claimed."""
    made = replace(generation(name, Status.QUEUED, created), model="fake", scorer="fake", scorer_revision=revision)
    return replace(made, spec=replace(made.spec, **spec))


@pytest.mark.parametrize("refusal", [ModelAway("unloaded"), Loading("no worker is ready"), Overloaded("full")])
async def test_what_the_engine_refuses_after_its_claim_is_claimed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    async with house(tmp_path) as h:
        submit, refusals = h.service._engine.submit, [refusal]

        def refusing(*args: Any, **options: Any) -> None:
            if refusals:
                raise refusals.pop()
            submit(*args, **options)

        monkeypatch.setattr(h.service._engine, "submit", refusing)
        await h.records.create(_waiting("gen_refused"), [], None)
        working = asyncio.create_task(h.service.run_worker())
        made = await asyncio.wait_for(h.service.wait("gen_refused"), 20)
        assert (made.status, refusals) == (Status.SUCCEEDED, [])
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_a_model_that_has_left_turns_nobody_away_for_earlier_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as h:
        worker, stats = h.service._worker, h.service._engine.stats
        worker._queue_overdue = True  # a larger one waited longer, and another replica took it since
        with pytest.raises(Overloaded, match="earlier queued generations"):
            await h.made()
        monkeypatch.setattr(h.service._engine, "stats", lambda: replace(stats(), ready=False))
        assert not await worker._claim_next()
        assert await h.made()


async def test_the_next_one_is_tried_at_once_where_another_replica_claimed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.generations.queue_worker.QUEUE_POLL_INTERVAL_S", 1000.0)
    async with house(tmp_path) as h:
        claim: Any = h.records.claim
        tries = list[str]()

        async def late(*given: Any, **options: Any) -> Any:
            tries.append("claim")
            if len(tries) == 1:
                taken = await claim(*given[:3], THEIRS, **options)
                assert taken is not None
                tries.append(taken.generation.id)
                return None
            return await claim(*given, **options)

        monkeypatch.setattr(h.records, "claim", late)
        for name, created in (("gen_a", 1.0), ("gen_b", 2.0)):
            await h.records.create(_waiting(name, created), [], None)
        working = asyncio.create_task(h.service.run_worker())
        async with asyncio.timeout(20):
            assert (await h.service.wait("gen_b")).status is Status.SUCCEEDED
        assert tries == ["claim", "gen_a", "claim"]
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@pytest.mark.parametrize("loaded", [True, False])
async def test_one_that_is_lost_twice_waits_for_the_next_look(
    loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        return None

    async def failure() -> Overloaded:
        return Overloaded("it cannot be loaded")

    async with house(tmp_path) as h:
        worker, stats, model = h.service._worker, h.service._engine.stats, h.service._engine.generator.id
        monkeypatch.setattr(h.service._engine, "stats", lambda: replace(stats(), ready=loaded))
        monkeypatch.setattr(worker, "_demand", ModelDemand(model, lambda: None, failure, _true))
        monkeypatch.setattr(h.records, "claim", lost)
        await h.records.create(_waiting("gen_a", 1.0), [], None)
        assert [await worker._claim_next() for _ in range(3)] == [True, False, False]
        await h.records.create(_waiting("gen_0", 0.5), [], None)
        assert [await worker._claim_next() for _ in range(2)] == [True, False]


async def _true() -> bool:
    return True


async def test_models_that_are_not_loaded_look_into_the_queue_together(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.records.create(_waiting("gen_a", 1.0), [], None)
        notifier, calls = Notifier(), h.records.connections.instruments.calls
        waiting, before = WaitingModels(h.records, notifier, 60.0), calls["database_read"]
        models = [h.service._engine.generator.id, *(f"other {number}" for number in range(20))]
        assert await asyncio.gather(*map(waiting.includes, models)) == [True, *[False] * 20]
        assert not await waiting.includes("other 1")
        assert calls["database_read"] == before + 1
        await h.records.create(replace(_waiting("gen_b", 2.0), model="other 1"), [], None)
        notifier.notify(QUEUE_TOPIC)
        assert await waiting.includes("other 1")
        assert calls["database_read"] == before + 2


async def test_a_look_into_the_queue_that_failed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        waiting, look = WaitingModels(h.records, Notifier(), 60.0), h.records.waiting_models

        async def away(_: float) -> frozenset[str]:
            raise StoreUnavailable("the database is away")

        monkeypatch.setattr(h.records, "waiting_models", away)
        with pytest.raises(StoreUnavailable):
            await waiting.includes("other")
        monkeypatch.setattr(h.records, "waiting_models", look)
        assert not await waiting.includes("other")


async def test_what_is_larger_than_a_replica_holds_up_nobody(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.records.create(_waiting("gen_large", 1.0, n_candidates=100_000), [], None)
        await h.records.create(_waiting("gen_left", 2.0), [], None)
        working = asyncio.create_task(h.service.run_worker())
        assert (await h.service.wait("gen_left")).status is Status.SUCCEEDED
        assert await h.made()
        assert (await h.service.get("gen_large")).status is Status.QUEUED
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_what_was_accepted_under_other_weights_is_ranked_by_those_of_here(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        pulled = Ranking(references=(Reference(1.0, (1.0, 0.0)),))
        await h.records.create(_waiting("gen_old", revision="old"), [], None)
        await h.records.create(_waiting("gen_pulled", revision="old", ranking=pulled), [], None)
        begun = _waiting("gen_begun", start=InitImage(0.5, (3, 8, 8), ""))
        await h.records.create(replace(begun, model_revision="old"), [], None)
        working = asyncio.create_task(h.service.run_worker())
        assert (await h.service.wait("gen_old")).scorer_revision == h.service.models()[1].revision
        failed = (await h.service.wait("gen_pulled")).failure
        assert failed is not None
        assert failed.code == "other_scorer"
        failed = (await h.service.wait("gen_begun")).failure
        assert failed is not None
        assert failed.code == "not_found"
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_what_nobody_can_make_fails_after_a_day_and_is_then_forgotten(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.records.create(replace(_waiting("gen_stranger"), model="gone"), [], None)
        await h.records.create(replace(_waiting("gen_waits", time.time() - 3600), model="gone"), [], None)
        assert await h.service.purge_expired(60) == 0
        failure = (await h.service.get("gen_stranger")).failure
        assert failure is not None
        assert failure.code == "interrupted"
        assert [e.kind async for e in h.service.watch("gen_stranger")][-1] is EventKind.FAILED
        assert await h.service.purge_expired(60) == 1
        with pytest.raises(NotFound):
            await h.service.get("gen_stranger")
        assert (await h.service.get("gen_waits")).status is Status.QUEUED
