"""Database writes of a generation, and the results that remain when its process dies."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain import Event, EventKind, Progress, Status
from app.errors import StoreUnavailable
from app.service import GenerationParams, LeasePolicy
from app.service.generations import queue_worker, recorder
from app.service.generations.event_log import wait_until_set
from app.service.generations.recording import supervisor
from app.service.generations.recording.live_log import EVENT_BYTES, LiveLog
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claim, Held, NewEvent
from tests.unit.service_kit import House, house
from tests.unit.store_kit import MINE, STEP, THEIRS, generation
from tests.unit.test_batches import working

pytestmark = pytest.mark.anyio

MOST_TRANSACTIONS = 4


def _numbered(*numbers: int) -> list[NewEvent]:
    return [NewEvent(EventKind.STEP, {"step": number}, number, 1.0) for number in numbers]


async def _seen(one: House, name: str, events: int) -> list[Event]:
    """The first events that a client of this replica gets."""
    found: list[Event] = []
    async for event in one.service.watch(name):
        found.append(event)
        if len(found) == events:
            break
    return found


@pytest.mark.slow
async def test_a_large_generation_takes_few_transactions(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 600.0)  # one look a second, for all generations of a process
    async with house(tmp_path, url=url, delay_s=0.01) as one:
        await one.made(n_candidates=1, steps=1)
        calls = one.records.connections.instruments.calls
        before = sum(calls.values())
        name = (await one.service.submit(GenerationParams("a red apple", n_candidates=64, steps=50))).id
        done = await one.service.wait(name)
        made = sum(calls.values()) - before
        kinds = [event.kind for event in await one.records.events(name, 0)]
    assert done.status is Status.SUCCEEDED
    assert made <= MOST_TRANSACTIONS
    assert kinds.count(EventKind.CANDIDATE) == 64
    assert (kinds[0], kinds[1], kinds[-1]) == (EventKind.QUEUED, EventKind.STARTED, EventKind.SUCCEEDED)


async def test_an_empty_queue_is_not_asked_at_every_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resting = asyncio.Event()

    async def rests(changed: asyncio.Event, _: float) -> None:
        if not changed.is_set():
            resting.set()
        await wait_until_set(changed, 600.0)
        resting.clear()

    monkeypatch.setattr(queue_worker, "wait_until_set", rests)
    async with house(tmp_path) as one, working(one):
        await one.made(n_candidates=1, steps=1)
        await resting.wait()  # an end during a look causes another one
        before = one.records.connections.instruments.calls["database_read"]
        for _ in range(5):
            await one.made(n_candidates=1, steps=1)
        assert one.records.connections.instruments.calls["database_read"] == before


@pytest.mark.slow
async def test_a_stream_of_a_lost_replica_goes_on_at_another_one(tmp_path: Path, url: str) -> None:
    lease = LeasePolicy(lease_s=1.0)
    async with (
        house(tmp_path, url=url) as two,
        house(tmp_path, url=url, delay_s=0.05, lease_policy=lease) as one,
    ):
        name = (await one.service.submit(GenerationParams("x", steps=100, n_candidates=1))).id
        seen = await _seen(one, name, 8)
        stored = await one.records.events(name, 0)
        assert len(stored) < len(seen), "progress stays in memory"
        for _, task in list(one.service._recordings._recordings.values()):
            task.cancel()  # as if the process had died: nothing is released
        one.service._engine.cancel(name)
        async with working(two):
            rest = [event async for event in two.service.watch(name, seen[-1].seq)]
    assert rest[-1].kind is EventKind.SUCCEEDED
    assert rest[0].kind is EventKind.STARTED
    numbers = [event.seq for event in (*seen, *rest)]
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
async def test_an_end_by_another_replica_follows_all_that_was_seen(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url, delay_s=0.05) as one, house(tmp_path, url=url) as two:
        name = (await one.service.submit(GenerationParams("x", steps=150, n_candidates=1))).id
        seen = await _seen(one, name, 6)
        assert (await two.service.cancel(name)).status is Status.CANCELLED
        for replica in (one, two):
            rest = [event async for event in replica.service.watch(name, seen[-1].seq)]
            assert rest[-1].kind is EventKind.CANCELLED
            assert rest[-1].seq > seen[-1].seq
        while len(one.service._recordings):
            await asyncio.sleep(0.02)
        assert one.service.stats().rows_stepped < 150, "its process drops it from the device"


@pytest.mark.slow
async def test_progress_is_stored_while_another_replica_follows(tmp_path: Path, url: str) -> None:
    async with house(tmp_path, url=url, delay_s=0.05) as one, house(tmp_path, url=url) as two:
        name = (await one.service.submit(GenerationParams("x", steps=150, n_candidates=1))).id
        async with asyncio.timeout(60):
            kinds = []
            async for event in two.service.watch(name):
                kinds.append(event.kind)
                if kinds.count(EventKind.STEP) == 2:
                    break
        assert (await two.service.get(name)).progress.step
        await one.service.cancel(name)
        whole = [event.seq for event in await two.records.events(name, 0)]
    assert whole == list(range(1, len(whole) + 1))


async def test_who_waits_for_an_end_alone_asks_for_no_progress(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as one, house(tmp_path) as two:
        name = (await one.service.submit(GenerationParams("x", steps=20, n_candidates=1))).id
        assert (await two.service.wait(name)).status is Status.SUCCEEDED
        assert not (await two.records.look([name], 60))[name].watched


async def test_what_may_have_killed_a_process_is_stored_at_its_start_and_then_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, delay_s=0.02) as one:
        monkeypatch.setattr(queue_worker, "START_STORE_DELAY_S", 600.0)
        engine, alone = one.service._engine, list[bool]()
        submit = engine.submit

        def told(*given: Any, exclusive: bool = False, **more: Any) -> None:
            alone.append(exclusive)
            submit(*given, exclusive=exclusive, **more)

        monkeypatch.setattr(engine, "submit", told)
        for name, lost in (("gen_a", 1), ("gen_b", 2)):
            models = engine.generator.id, engine.scorer.id
            queued = replace(generation(name, Status.QUEUED), model=models[0], scorer=models[1])
            await one.records.create(queued, [STEP], None)
            for number in range(lost):
                assert await one.records.claim(*models, 9, Claim(f"lost {number}", -1.0))
            async with working(one):
                while (stored := await one.records.get(name) or generation()).attempts == 0:
                    await asyncio.sleep(0.01)
                assert stored.status is Status.RUNNING, "not only at its end"
                await one.service.cancel(name)
    assert alone == [False, True]


async def test_a_start_is_stored_when_its_end_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_worker, "START_STORE_DELAY_S", 600.0)
    monkeypatch.setattr(recorder, "STORE_RETRY_DELAYS_S", (0.02,) * 1000)
    async with house(tmp_path) as one:
        put, away = one.blobs.put, True

        async def flaky(key: str, data: bytes) -> None:
            if away:
                raise StoreUnavailable("the bucket is away")
            await put(key, data)

        monkeypatch.setattr(one.blobs, "put", flaky)
        name = (await one.service.submit(GenerationParams("x", n_candidates=1, steps=2))).id
        async with asyncio.timeout(20):
            while (await one.service.get(name)).status is Status.QUEUED:
                await asyncio.sleep(0.01)
        stored = await one.records.get(name)
        assert stored is not None
        assert (stored.status, stored.attempts) == (Status.RUNNING, 1)
        away = False
        done = await one.service.wait(name)
        assert (done.status, done.attempts) == (Status.SUCCEEDED, 1)
        seqs = [event.seq for event in await one.records.events(name, 0)]
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.slow
async def test_claims_outlive_their_lease_while_the_device_is_silent(tmp_path: Path, url: str) -> None:
    lease = LeasePolicy(lease_s=2.0)
    async with (
        house(tmp_path, url=url, lease_policy=lease) as one,
        house(tmp_path, url=url, lease_policy=lease) as two,
        working(two),
    ):
        one.generator.delay_s = 3.0
        name = (await one.service.submit(GenerationParams("x", steps=1, n_candidates=1), queue_if_full=True)).id
        done = await one.service.wait(name)
    assert (done.status, done.attempts) == (Status.SUCCEEDED, 1)


async def test_claims_are_extended_together(records: SqlGenerationStore) -> None:
    for name, claim in (("gen_a", MINE), ("gen_b", THEIRS), ("gen_c", None)):
        await records.create(generation(name), [], claim)
    held = {name: (MINE, Progress(0.5, 3, 2)) for name in ("gen_a", "gen_b", "gen_c", "gen_gone")}
    assert await records.prolong(held) == {"gen_a"}
    assert (await records.get("gen_a") or generation()).progress == Progress(0.5, 3, 2)
    assert (await records.get("gen_b") or generation()).progress == Progress()


async def test_a_claim_that_this_process_made_again_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, delay_s=0.05) as one:
        name = (await one.service.submit(GenerationParams("x", steps=100, n_candidates=1))).id
        held = one.service._recordings.recorder_for(name)
        assert held is not None

        async def late(_: Any) -> set[str]:
            held.replace_claim(Claim("again", 60.0), 1)
            return set()

        monkeypatch.setattr(one.records, "prolong", late)
        await one.service._recordings._supervisor._prolong({name: held})
        assert not held.claim_lost
        await one.service.cancel(name)


async def test_requests_for_progress_outlast_a_long_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RENEW_S", 0.0)  # each request outlasts the memory of the one before
    async with house(tmp_path) as one:
        over = asyncio.Event()

        async def away(_: str) -> None:
            await over.wait()
            raise StoreUnavailable("the database is away")

        monkeypatch.setattr(one.records, "record_watch", away)
        requests = supervisor.ProgressRequests(one.records)
        asked = [asyncio.create_task(requests.ask(name)) for name in ("gen_a", "gen_b")]
        await asyncio.sleep(0)
        over.set()
        assert await asyncio.gather(*asked) == [None, None]


async def test_a_look_tells_claims_and_who_is_watched(records: SqlGenerationStore) -> None:
    for name, claim in (("gen_a", MINE), ("gen_b", None)):
        await records.create(generation(name), [], claim)
    await records.record_watch("gen_a")
    found = await records.look(["gen_a", "gen_b", "gen_gone"], 60)
    assert found == {"gen_a": Held("mine", True), "gen_b": Held(None, False)}
    await asyncio.sleep(0.02)
    assert (await records.look(["gen_a"], 0.01))["gen_a"] == Held("mine", False)


async def test_numbered_events_are_stored_once(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], MINE)
    for _ in range(2):  # the answer to the first one was lost
        assert await records.append("gen_a", _numbered(2, 3), MINE)
    assert await records.save(generation(status=Status.SUCCEEDED), _numbered(3, 4), MINE)
    assert [event.seq for event in await records.events("gen_a", 0)] == [1, 2, 3, 4]


async def test_a_takeover_and_a_foreign_end_leave_numbers_out(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], Claim("lost", -1.0))
    found = await records.claim("pictogram", "pictogram", 9, MINE)
    assert found is not None
    assert found.last_seq > 1000
    await records.settle(generation(status=Status.CANCELLED), [NewEvent(EventKind.CANCELLED, {})])
    last = (await records.events("gen_a", 1))[-1]
    assert last.kind is EventKind.CANCELLED
    assert last.seq > found.last_seq + 1000


def test_a_live_log_shows_before_it_stores() -> None:
    log = LiveLog(3, lambda: 9.0)
    log.show(log.number([STEP, NewEvent(EventKind.PREVIEW, {"image": "x" * 50})]))
    assert [event.seq for event in log.after(3)] == [4, 5]
    assert (log.covers(3), log.covers(2), log.bytes) == (True, False, 2 * EVENT_BYTES + 50)
    log.mark_stored(log.unstored()[:1])
    assert ([event.seq for event in log.after(0)], log.stored) == ([5], 4)
    log.continue_after(100)
    assert log.number([STEP])[0].seq == 101
