"""Workers that die, fail, hang or are slow, and requests that kill them."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import weakref
from collections.abc import Callable

import pytest

from app.domain import Checkpoint
from app.engine.cluster import fleet, hedging, workers
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.slots import Slot
from app.engine.cluster.workers import OnStep
from app.engine.protocols import Failed
from app.engine.segments import core as segments
from app.engine.segments.messages import Kept, Segment, SegmentDone
from app.errors import EngineDead, EngineFailed, Interrupted
from models.protocols import Models
from tests.unit import cluster_kit as kit
from tests.unit.cluster_kit import CONFIG, Faults, InProcessWorker, alone, assert_same, cluster, race
from tests.unit.engine_kit import Inbox, spec

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COLLECT = workers._collect
CUTS = (Checkpoint(2, 12), Checkpoint(4, 6))


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart lost workers at once, without a look for garbage, which takes a second beside torch."""
    monkeypatch.setattr(fleet, "RESTART_S", 0.01)
    monkeypatch.setattr(workers, "_collect", lambda: None)


@pytest.fixture
def no_hedging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits for a core is neither late nor slow: each gets its share."""
    monkeypatch.setattr("app.engine.cluster.slots.SLOW", math.inf)
    monkeypatch.setattr(hedging, "WORTH", math.inf)
    monkeypatch.setattr(hedging, "SILENT_S", math.inf)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(50):
        while not condition():
            await asyncio.sleep(0.001)


def slots(engine: ClusterEngine) -> list[Slot]:
    return list(engine._dispatcher.slots)


@pytest.mark.usefixtures("no_hedging")
@pytest.mark.parametrize("lost", [1, 2])
async def test_workers_that_die_in_the_middle_change_nothing_but_the_time(lost: int) -> None:
    one, faults = spec(n_candidates=30, n=3, checkpoints=CUTS), Faults(die_at={f"w{i}": 1 for i in range(lost)})
    async with cluster(3, faults, delay_s=0.002) as engine:
        outcome, _ = await race(engine, one)
        assert sorted(faults.deaths) == [f"w{i}" for i in range(lost)]
        await until(lambda: all(slot.alive for slot in slots(engine)))
        again, _ = await race(engine, kit.replace(one, id="gen_b"))
    assert_same(outcome, alone(one))
    assert_same(again, alone(one))


@pytest.mark.usefixtures("no_hedging")
async def test_a_death_loses_the_steps_since_the_last_latents_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work of both attempts is counted once. Latents of earlier steps are not kept."""
    monkeypatch.setattr(segments, "KEEP_S", 0.0)
    begun: list[int] = []
    before: list[Kept] = []

    class Watching(InProcessWorker):
        async def run(self, segment: Segment, on_step: OnStep) -> SegmentDone:
            begun.append(segment.step)
            before.extend(engine._held["gen_a"].race._before.values())
            return await super().run(segment, on_step)

    one, faults = spec(n_candidates=2, n=2, steps=60), Faults(die_at={"w0": 50})
    async with cluster(2, faults, delay_s=0.002, worker=Watching) as engine:
        outcome, _ = await race(engine, one)
    assert begun[:2] == [0, 0]
    assert min(begun[2:]) > 40
    assert len(before) > 40
    assert not any(each.states for each in before)
    assert faults.deaths == ["w0"]
    assert_same(outcome, alone(one))


async def test_a_request_that_kills_its_workers_ends_after_an_exclusive_second_attempt() -> None:
    """Others finish; their own second attempts do not share a worker with it."""
    faults = Faults(deadly={5_000})
    async with cluster(3, faults, delay_s=0.002) as engine:
        others = [spec(f"g{i}", n_candidates=10, seed=100 * i, owner=f"o{i}", steps=20) for i in range(4)]
        inboxes = [Inbox() for _ in others]
        for one, inbox in zip(others[:2], inboxes[:2], strict=True):
            engine.submit(one, inbox)
        poison = Inbox()
        engine.submit(spec("poison", n_candidates=3, seed=4_999), poison)
        for one, inbox in zip(others[2:], inboxes[2:], strict=True):
            engine.submit(one, inbox)
        error = await poison.error()
        outcomes = [await inbox.outcome() for inbox in inboxes]
        assert engine.stats().held == 0
        await until(lambda: all(slot.alive for slot in slots(engine)))
    assert type(error) is Interrupted
    assert "crashed" in str(error)
    assert len(faults.deaths) == 2
    for one, outcome in zip(others, outcomes, strict=True):
        assert_same(outcome, alone(one))


async def test_with_one_attempt_a_loss_ends_the_generation() -> None:
    faults = Faults(deadly={7})
    async with cluster(2, faults, max_attempts=1) as engine:
        inbox = Inbox()
        engine.submit(spec(n_candidates=1), inbox)
        assert type(await inbox.error()) is Interrupted
    assert len(faults.deaths) == 1


async def test_a_worker_that_raises_is_replaced_by_another_one() -> None:
    one, faults = spec(n_candidates=20, n=2), Faults(broken={9}, broken_on={"w0"})
    async with cluster(2, faults) as engine:
        for name in ("gen_a", "gen_b"):
            outcome, _ = await race(engine, kit.replace(one, id=name))
            assert_same(outcome, alone(one))
        assert all(slot.alive for slot in slots(engine))


async def test_a_request_that_fails_on_two_workers_fails_with_their_error() -> None:
    faults = Faults(broken={9}, broken_on={"w0", "w1", "w2"})
    async with cluster(3, faults) as engine:
        inbox = Inbox()
        engine.submit(spec(n_candidates=8), inbox)
        error = await inbox.error()
        await race(engine, spec("gen_b", seed=50))
        assert all(slot.alive for slot in slots(engine))
    assert type(error) is EngineFailed


async def test_a_chunk_whose_only_other_worker_dies_is_tried_where_it_failed() -> None:
    """It waits for no worker that may never come back."""
    one = spec(n_candidates=1, steps=40)
    faults = Faults(broken={7}, broken_on={"w0"})
    async with cluster(2, faults, delay_s=0.005) as engine:
        for slot in slots(engine)[1:]:
            slot.sent += 1_000
        inbox = Inbox()
        engine.submit(one, inbox)
        await until(lambda: bool(slots(engine)[1].attempts))
        faults.broken_on.clear()
        slots(engine)[1].starts = fleet.MAX_STARTS
        faults.kill.add("w1")
        outcome = await inbox.outcome()
        assert [slot.alive for slot in slots(engine)] == [True, False]
    assert_same(outcome, alone(one))


async def test_a_worker_that_hangs_does_not_hold_up_a_generation() -> None:
    one, faults = spec(n_candidates=24, n=2, steps=40), Faults()
    async with cluster(3, faults, delay_s=0.005) as engine:
        faults.stuck.add("w1")
        inbox = Inbox()
        engine.submit(one, inbox)
        await until(lambda: not faults.stuck)
        outcome = await inbox.outcome()
        assert not faults.released.is_set()
        hung = slots(engine)[1]
        assert hung.attempts
        faults.released.set()
        await until(lambda: not hung.attempts)
    assert_same(outcome, alone(one))


async def test_a_worker_that_hangs_under_load_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although no other worker is idle, and until it shows a sign of life."""
    monkeypatch.setattr(hedging, "SILENT_S", 0.1)
    faults = Faults()
    async with cluster(2, faults, delay_s=0.001) as engine:
        faults.stuck.add("w0")
        many = [spec(f"g{i}", n_candidates=60, steps=12, seed=100 * i) for i in range(4)]
        ended = await asyncio.gather(*(race(engine, one) for one in many))
        stuck = slots(engine)[0]
        assert stuck.suspect
        faults.released.set()
        await until(lambda: not stuck.suspect)
        await race(engine, spec("late", n_candidates=24))
    for one, (outcome, _) in zip(many, ended, strict=True):
        assert_same(outcome, alone(one))


async def test_a_slow_worker_gets_less_once_it_is_known() -> None:
    faults = Faults()
    async with cluster(3, faults, delay_s=0.002) as engine:
        faults.slow["w2"] = 0.1  # what a call takes on a busy machine is little beside it
        one = spec(n_candidates=48, n=2, steps=10)
        outcome, _ = await race(engine, one)
        before = [slot.worker.stats().rows_stepped for slot in slots(engine)]
        again, _ = await race(engine, kit.replace(one, id="gen_b"))
        after = [slot.worker.stats().rows_stepped for slot in slots(engine)]
    made = [now - then for now, then in zip(after, before, strict=True)]
    assert made[2] < min(made[:2]) / 2
    assert_same(outcome, alone(one))
    assert_same(again, alone(one))


async def test_a_large_owner_does_not_hold_up_a_small_one() -> None:
    async with cluster(2, delay_s=0.002, capacity=2048) as engine:
        large = [Inbox() for _ in range(6)]
        for i, inbox in enumerate(large):
            engine.submit(spec(f"large{i}", n_candidates=128, steps=20, owner="large", seed=1000 * i), inbox)
        await until(lambda: engine.stats().running > 100)
        small, _ = await race(engine, spec("small", n_candidates=4, steps=20, owner="small"))
        ended = [bool(inbox.updates) and inbox._done.is_set() for inbox in large]
        assert sum(ended) <= 1
        for i in range(6):
            engine.cancel(f"large{i}")
    assert_same(small, alone(spec("small", n_candidates=4, steps=20, owner="small")))


async def test_two_owners_get_equal_shares_whatever_they_ask_for() -> None:
    async with cluster(2, delay_s=0.002, capacity=4096) as engine:
        for i in range(24):
            engine.submit(spec(f"many{i}", n_candidates=64, steps=20, owner="many", seed=1000 * i), Inbox())
        engine.submit(spec("few", n_candidates=1_000, steps=20, owner="few", seed=7), Inbox())

        def shares() -> list[int]:
            return [sum(slot.rows_of(owner) for slot in slots(engine)) for owner in ("many", "few")]

        await until(lambda: min(shares()) >= 40 and max(shares()) <= 1.5 * min(shares()))
        for name in (*(f"many{i}" for i in range(24)), "few"):
            engine.cancel(name)


async def test_an_exclusive_generation_shares_its_worker_with_no_other() -> None:
    together: list[int] = []

    class Watching(InProcessWorker):
        async def run(self, segment, on_step):  # type: ignore[no-untyped-def]
            mine = next(s for s in engine._dispatcher.slots if s.worker is self)
            together.append(len({a.chunk.generation for a in mine.attempts if a.chunk.generation in names}))
            names_here = {a.chunk.generation for a in mine.attempts}
            assert "alone" not in names_here or names_here == {"alone"}
            return await super().run(segment, on_step)

    names = {f"g{i}" for i in range(4)}
    async with cluster(2, delay_s=0.002, worker=Watching) as engine:
        inboxes = [Inbox() for _ in range(5)]
        for name, inbox in zip(sorted(names)[:2], inboxes, strict=False):
            engine.submit(spec(name, n_candidates=12), inbox)
        engine.submit(spec("alone", n_candidates=12), inboxes[2], exclusive=True)
        for name, inbox in zip(sorted(names)[2:], inboxes[3:], strict=True):
            engine.submit(spec(name, n_candidates=12), inbox)
        for inbox in inboxes:
            await inbox.outcome()
    assert max(together) >= 1


async def test_a_worker_that_cannot_load_is_a_death_that_names_the_reason() -> None:
    def broken() -> Models:
        raise OSError("no such device")

    deaths: list[BaseException] = []
    workers = [InProcessWorker("w0", kit.models, CONFIG), InProcessWorker("w1", broken, CONFIG)]
    engine = ClusterEngine(workers, CONFIG, deaths.append)
    engine.start()
    await until(lambda: engine.stats().dead)
    assert [str(death) for death in deaths] == ["no such device"]
    with pytest.raises(EngineDead):
        _ = engine.generator
    await engine.close(0)


async def test_when_no_worker_comes_back_the_engine_dies_and_fails_all_waiters() -> None:
    faults, loaded, deaths = Faults(), list[str](), list[BaseException]()

    def load() -> Models:
        if len(loaded) >= 2:
            raise OSError("the device is gone")
        loaded.append("x")
        return kit.models(f"w{len(loaded) - 1}", faults, 0.001)

    engine = ClusterEngine([InProcessWorker(f"w{i}", load, CONFIG) for i in range(2)], CONFIG, deaths.append)
    engine.start()
    await until(lambda: engine.stats().ready)
    inbox = Inbox()
    engine.submit(spec(n_candidates=20, steps=300), inbox)
    await until(lambda: len(faults.began) == 2)
    faults.kill |= {"w0", "w1"}
    last = await inbox.last()
    assert isinstance(last, Failed)
    assert isinstance(last.error, EngineDead)
    assert [str(death) for death in deaths] == ["the device is gone"]
    await engine.close(0)


async def test_a_lost_worker_leaves_nothing_but_its_counters(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_collect", COLLECT)
    caplog.set_level(logging.CRITICAL)  # records of a log hold tracebacks
    faults, held = Faults(), list[weakref.ref[kit.FaultyGenerator]]()

    def load(name: str) -> Models:
        loaded = kit.models(name, faults, 0.001)
        loaded.generator.itself = loaded.generator  # type: ignore[attr-defined]
        held.append(weakref.ref(loaded.generator))  # type: ignore[arg-type]
        return loaded

    async with cluster(2, faults, make=load) as engine:
        gc.freeze()  # as the server does once the models are loaded
        await race(engine, spec(n_candidates=20))
        before = engine.stats()
        faults.kill.add("w0")
        await race(engine, spec("gen_b", n_candidates=20))
        await until(lambda: faults.deaths == ["w0"] and all(slot.alive for slot in slots(engine)))
        assert [each() is None for each in held] == [True, False, False]
        assert engine.stats().rows_stepped >= before.rows_stepped + 20 * 4


@pytest.mark.usefixtures("no_hedging")
async def test_a_worker_that_comes_back_with_other_weights_is_given_up_and_stopped() -> None:
    class Other(kit.FaultyGenerator):
        @property
        def info(self):  # type: ignore[no-untyped-def]
            return kit.replace(super().info, revision="2")

    faults, loaded = Faults(), list[str]()

    def load(name: str) -> Models:
        loaded.append(name)
        given = kit.models(name, faults, 0.001)
        return given if len(loaded) <= 2 else kit.replace(given, generator=Other(name, faults, 0.001))

    before = set(threading.enumerate())
    async with cluster(2, faults, make=load) as engine:
        faults.kill.add("w0")
        await race(engine, spec(n_candidates=20))
        (lost,) = [slot for slot in slots(engine) if slot.worker.name == "w0"]
        await until(lambda: lost.given_up)
        await until(lambda: [t.name for t in {*threading.enumerate()} - before].count("engine") == 1)
        outcome, _ = await race(engine, spec("gen_b", n_candidates=8))
        assert_same(outcome, alone(spec("gen_b", n_candidates=8)))


async def test_a_worker_that_dies_while_another_one_loads_is_a_death() -> None:
    deaths, first = list[BaseException](), InProcessWorker("w0", kit.models, CONFIG)

    class Second(InProcessWorker):
        async def start(self, on_lost: Callable[[BaseException], None]) -> None:
            await super().start(on_lost)
            first._engine._fail_all(OSError("the device is gone"))

    engine = ClusterEngine([first, Second("w1", kit.models, CONFIG)], CONFIG, deaths.append)
    engine.start()
    await until(lambda: engine.stats().dead)
    assert len(deaths) == 1
    await engine.close(0)


async def test_workers_with_other_weights_are_refused() -> None:
    class Other(kit.FaultyGenerator):
        @property
        def info(self):  # type: ignore[no-untyped-def]
            return kit.replace(super().info, revision="2")

    def other() -> Models:
        return kit.replace(kit.models(), generator=Other("w1", Faults(), 0.0))

    deaths: list[BaseException] = []
    workers = [InProcessWorker("w0", kit.models, CONFIG), InProcessWorker("w1", other, CONFIG)]
    engine = ClusterEngine(workers, CONFIG, deaths.append)
    engine.start()
    await until(lambda: engine.stats().dead)
    assert "different models" in str(deaths[0])
    await engine.close(0)
