"""Several engines of one process: loads, memory, turns."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import pytest

from app import model_loading
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.workers import InProcessWorker
from app.engine.core import EngineCore
from app.engine.local import LocalEngine
from app.engine.protocols import Cancelled, Failed, Succeeded, Update
from app.engine.registry import Lifetime, ManagedEngine, ModelMemory, Turns, managed
from app.errors import Draining, Loading, ModelAway, ModelLoadFailed
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.models_kit import FakeModel, Shelf, broken
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.cluster_kit import CONFIG
from tests.unit.engine_kit import spec
from tests.unit.replica_kit import FakeLink

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def started(shelf: Shelf) -> AsyncIterator[Shelf]:
    shelf.registry.start()
    try:
        yield shelf
    finally:
        for model in shelf.models.values():
            model.gate.set()
        await shelf.registry.close(0)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def test_resident_models_load_one_after_the_other() -> None:
    async with started(Shelf(FakeModel("a", size=3), FakeModel("b", size=4), FakeModel("c", resident=False))) as shelf:
        assert not shelf.registry.stats().ready
        await until(lambda: shelf.registry.stats().ready)
        assert (shelf.loads, shelf.most_loading) == (["a", "b"], 1)
        assert [state.state for state in shelf.registry.states()] == ["loaded", "loaded", "waiting"]
        assert shelf.registry.stats().weight_bytes == 7
        with pytest.raises(Loading):
            _ = shelf.engines["c"].generator


async def test_a_model_on_demand_is_loaded_once_by_all_who_wait() -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b", resident=False))) as shelf:
        found = await asyncio.gather(*(shelf.engines["b"].embed_texts(["red"]) for _ in range(5)))
        assert len(found) == 5
        assert shelf.loads.count("b") == 1
        assert shelf.engines["b"].generator.id == "b"


async def test_a_submission_loads_the_model_and_is_left_to_the_queue() -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b", resident=False))) as shelf:
        engine = shelf.engines["b"]
        with pytest.raises(ModelAway):
            engine.submit(spec(), lambda _: None)
        await until(lambda: engine.loaded)
        ended: list[Update] = []
        engine.submit(spec(), ended.extend)
        await until(lambda: ended and isinstance(ended[-1], Succeeded | Failed | Cancelled))
        assert isinstance(ended[-1], Succeeded)
        assert shelf.registry.stats().rows_stepped == 6 * 4


async def test_the_least_recently_used_model_makes_room_and_is_known_afterwards() -> None:
    on_demand = [FakeModel(name, resident=False, size=40) for name in "abc"]
    async with started(Shelf(*on_demand, budget=100)) as shelf:
        for name in "abac":
            await shelf.engines[name].embed_texts(["red"])
        assert [shelf.engines[name].state for name in "abc"] == ["loaded", "waiting", "loaded"]
        assert shelf.memory.used_bytes == 80
        assert shelf.engines["b"].generator.id == "b"
        assert shelf.engines["b"].loads == {"loaded": 1, "failed": 0, "unloaded": 1}


async def test_a_busy_model_stays_until_it_is_idle_and_takes_no_more_work() -> None:
    async with started(Shelf(*(FakeModel(name, resident=False, size=60) for name in "ab"), budget=100)) as shelf:
        busy, wanted = shelf.engines["a"], shelf.engines["b"]
        await busy.known()
        with busy.hold():
            loading = wanted.request_load()
            await until(lambda: busy.stats().draining)
            with pytest.raises(ModelAway):
                busy.submit(spec(), lambda _: None)
            assert busy.loaded
            assert not wanted.loaded
        await loading
        assert (busy.loaded, wanted.loaded) == (False, True)


async def test_a_model_loaded_for_the_queue_takes_its_first_work_before_it_makes_room() -> None:
    async with started(Shelf(*(FakeModel(name, resident=False, size=60) for name in "ab"), budget=100)) as shelf:
        first, second = shelf.engines["a"], shelf.engines["b"]
        with pytest.raises(ModelAway):
            first.submit(spec(), lambda _: None)
        second.ask_for_load()  # waits for the first, which the queue's worker has not noticed yet
        await until(lambda: first.loaded)
        await asyncio.sleep(0.1)
        ended: list[Update] = []
        first.submit(spec(), ended.extend)
        await until(lambda: second.loaded)
        assert isinstance(ended[-1], Succeeded)
        assert shelf.loads == ["a", "b"]


async def test_resident_models_beyond_the_budget_are_refused_and_the_others_serve() -> None:
    async with started(Shelf(FakeModel("a", size=60), FakeModel("b", size=60), budget=100)) as shelf:
        await until(lambda: shelf.engines["b"].state == "failed")
        with pytest.raises(ModelLoadFailed, match="raise FRONTRUNNER_MODEL_MEMORY_MIB"):
            await shelf.engines["b"].embed_texts(["red"])
        assert await shelf.engines["a"].embed_texts(["red"])
        assert shelf.registry.stats().ready


async def test_a_failing_load_is_an_error_of_that_model_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = FakeModel("b", problems=[broken(), RuntimeError("/secret/path")])
    async with started(Shelf(FakeModel("a"), bad)) as shelf:
        engine = shelf.engines["b"]
        await until(lambda: engine.state == "failed")
        with pytest.raises(ModelLoadFailed, match="generator 'gone' not found"):
            await engine.embed_texts(["red"])
        assert shelf.engines["a"].loaded
        monkeypatch.setattr(managed, "RETRY_LOAD_S", 0.0)
        await engine.request_load()
        assert engine.failure is not None
        assert "RuntimeError" in engine.failure.detail
        assert "secret" not in engine.failure.detail
        assert await engine.embed_texts(["red"])
        assert engine.state == "loaded"
        assert shelf.deaths == []


async def test_a_failed_load_keeps_nothing_of_the_model(caplog: pytest.LogCaptureFixture) -> None:
    before = set(threading.enumerate())
    caplog.set_level(logging.CRITICAL)  # records of a log hold tracebacks
    held: list[weakref.ref[InstrumentedGenerator]] = []

    def load(name: str) -> Models:
        if name == "two":
            raise broken()
        generator = InstrumentedGenerator()
        held.append(weakref.ref(generator))
        return Models(generator, FakeScorer())

    def make(on_death: Callable[[BaseException], None]) -> ClusterEngine:
        workers = [InProcessWorker(name, partial(load, name), CONFIG) for name in ("one", "two")]
        return ClusterEngine(workers, CONFIG, on_death)

    model = ManagedEngine("a", make, ModelMemory(), Lifetime(), lambda _: None)
    await model.request_load()
    assert model.state == "failed"
    for _ in range(3):
        with pytest.raises(ModelLoadFailed) as caught:
            _ = model.generator
        assert len(traceback.extract_tb(caught.value.__traceback__)) < 8
    gc.collect()
    assert [each() for each in held] == [None]
    assert not [thread for thread in threading.enumerate() if thread.name == "engine" and thread not in before]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "hedging"]


async def test_a_loaded_model_whose_engine_dies_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b"))) as shelf:
        await until(lambda: shelf.registry.stats().ready)
        monkeypatch.setattr(EngineCore, "tick", broken_tick)
        shelf.engines["a"].submit(spec(), lambda _: None)
        await until(lambda: shelf.deaths)
        assert shelf.registry.stats().dead


def broken_tick(_: EngineCore) -> NoReturn:
    raise RuntimeError("the loop is broken")


async def test_loads_that_wait_for_others_do_not_begin_while_the_process_drains() -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b"))) as shelf:
        first, second = shelf.models["a"], shelf.engines["b"]
        first.gate.clear()
        await until(lambda: shelf.loading)
        shelf.registry.drain()
        first.gate.set()
        await second.request_load()
        assert shelf.loads == ["a"]


async def test_draining_loads_nothing_more() -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b", resident=False))) as shelf:
        shelf.registry.drain()
        with pytest.raises(Draining):
            await shelf.engines["b"].embed_texts(["red"])
        assert shelf.loads.count("b") == 0


async def test_a_model_whose_workers_do_not_come_holds_up_no_other_and_says_why() -> None:
    link, memory = FakeLink(), ModelMemory()

    def make_far(on_death: Callable[[BaseException], None]) -> ClusterEngine:
        return ClusterEngine([], CONFIG, on_death, link=link)

    def make_near(on_death: Callable[[BaseException], None]) -> LocalEngine:
        return LocalEngine(lambda: Models(InstrumentedGenerator(), FakeScorer()), CONFIG, on_death)

    far = ManagedEngine("far", make_far, memory, Lifetime(elsewhere=True), lambda _: None)
    near = ManagedEngine("near", make_near, memory, Lifetime(), lambda _: None)
    loading = far.request_load()
    await near.request_load()
    assert (far.state, near.state) == ("loading", "loaded")
    link.state.application = "DEPLOY_FAILED"
    link.state.problem = "no such pack"
    await loading
    assert "no such pack" in str(far.failure)
    await near.close(0)


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    turns, order, waiting = Turns(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(4):
            waiting.append(threading.Thread(target=take, args=(number,)))
            waiting[-1].start()
            while len(turns._waiting) <= number:
                pass
        assert order == []
    for thread in waiting:
        thread.join()
    assert order == [0, 1, 2, 3]
    with turns:
        pass


def test_names_of_one_device_share_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_loading, "device_name", lambda device: "cuda:0" if device != "cpu" else device)
    shelf = model_loading.ModelShelf(CONFIG, 0, lambda _: None, 2)
    first, second, other = (shelf._turns_on(device) for device in ("auto", "cuda:0", "cpu"))
    entered = threading.Event()

    def enter() -> None:
        with second:
            entered.set()

    with first, other:
        waiting = threading.Thread(target=enter)
        waiting.start()
        while not shelf._turns["cuda:0"]._waiting:
            pass
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()
