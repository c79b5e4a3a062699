"""Several engines of one process: loads, memory, turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from app.engine.core import EngineCore
from app.engine.protocols import Cancelled, Failed, Succeeded, Update
from app.engine.registry import Turns, managed
from app.errors import Draining, Loading, ModelAway, ModelLoadFailed
from tests.models_kit import FakeModel, Shelf, broken
from tests.unit.engine_kit import spec

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


async def test_a_loaded_model_whose_engine_dies_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b"))) as shelf:
        await until(lambda: shelf.registry.stats().ready)
        monkeypatch.setattr(EngineCore, "tick", broken_tick)
        shelf.engines["a"].submit(spec(), lambda _: None)
        await until(lambda: shelf.deaths)
        assert shelf.registry.stats().dead


def broken_tick(_: EngineCore) -> NoReturn:
    raise RuntimeError("the loop is broken")


async def test_draining_loads_nothing_more() -> None:
    async with started(Shelf(FakeModel("a"), FakeModel("b", resident=False))) as shelf:
        shelf.registry.drain()
        with pytest.raises(Draining):
            await shelf.engines["b"].embed_texts(["red"])
        assert shelf.loads.count("b") == 0


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
