"""Members that load at their first use: on another thread than the engine's, while other work goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.domain import Ranking, ScorerUse
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.protocols import Cancelled, Succeeded
from app.engine.segments.engine import SegmentEngine
from app.engine.segments.messages import Segment, SegmentRow
from app.errors import Draining, EngineDead, EngineFailed
from models.errors import PackCorrupt
from models.protocols import Embedder, Models
from models.scorers.deferred import DeferredScorer
from models.synthetic.members import RandomFeatureScorer
from tests.synthetic_models import InstrumentedGenerator, InstrumentedScorer
from tests.unit.engine_kit import Inbox, spec

pytestmark = pytest.mark.anyio

BOTH = Ranking(scorers=(ScorerUse("fake"), ScorerUse("fake-2")))


class Second:
    """A deferred member that loads while `gate` is open; `threads` names those that loaded it."""

    def __init__(self) -> None:
        self.gate, self.threads, self.problems = threading.Event(), list[str](), list[Exception]()
        self.gate.set()
        self.member = DeferredScorer(RandomFeatureScorer().info, self._load)

    def _load(self) -> Embedder:
        self.threads.append(threading.current_thread().name)
        assert self.gate.wait(60)
        if self.problems:
            raise self.problems.pop(0)
        return RandomFeatureScorer()

    async def until_asked(self) -> None:
        while not self.threads:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def engine(second: Second, kind: type[LocalEngine] = LocalEngine) -> AsyncIterator[LocalEngine]:
    generator = InstrumentedGenerator()
    models = Models(generator, InstrumentedScorer(), members=(second.member,))
    local = kind(lambda: models, EngineConfig(warmup_s=0.0), lambda _: None)
    local.start()
    while not local.stats().ready:
        await asyncio.sleep(0.001)
    try:
        yield local
    finally:
        second.gate.set()
        await local.close(10)


async def test_the_first_ranking_loads_a_member_beside_the_engine_while_others_step() -> None:
    second, first, again, other = Second(), Inbox(), Inbox(), Inbox()
    second.gate.clear()
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), first)
        local.submit(spec("gen_b", ranking=BOTH), again)
        await second.until_asked()
        local.submit(spec("gen_c"), other)
        assert isinstance(await other.last(), Succeeded)
        assert (local.stats().held, first.updates, second.member.is_loaded) == (8, [], False)
        second.gate.set()
        for inbox in (first, again):
            last = await inbox.last()
            assert isinstance(last, Succeeded)
            assert np.isfinite(last.outcome.members["fake-2"]).all()
            assert last.outcome.left_out == {}
    assert len(second.threads) == 1
    assert second.threads[0] != "engine"


async def test_one_that_is_cancelled_before_the_member_is_loaded_never_runs() -> None:
    second, inbox, later = Second(), Inbox(), Inbox()
    second.gate.clear()
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), inbox)
        await second.until_asked()
        local.cancel("gen_a")
        assert isinstance(await inbox.last(), Cancelled)
        assert local.stats().held == 0
        second.gate.set()
        local.submit(spec("gen_b", ranking=BOTH), later)
        assert isinstance(await later.last(), Succeeded)
        assert local.stats().rows_stepped == 4 * 6
    assert len(second.threads) == 1


async def test_a_member_that_cannot_be_loaded_is_left_out_and_loads_for_the_next_one() -> None:
    second, inbox, later = Second(), Inbox(), Inbox()
    second.problems = [PackCorrupt("broken"), PackCorrupt("broken")]
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), inbox)
        last = await inbox.last()
        assert isinstance(last, Succeeded)
        assert last.outcome.left_out == {"fake-2": "it failed on the device (PackCorrupt)"}
        local.submit(spec("gen_b", ranking=BOTH), later)
        last = await later.last()
        assert isinstance(last, Succeeded)
        assert last.outcome.left_out == {}


async def test_a_call_loads_it_beside_the_engine_and_has_its_error() -> None:
    second = Second()
    second.problems = [PackCorrupt("broken"), PackCorrupt("broken")]
    async with engine(second) as local:
        with pytest.raises(EngineFailed, match="PackCorrupt"):
            await local.embed_texts(["red"], "fake-2")
        second.threads.clear()
        images = [np.zeros((8, 8, 3), np.uint8)]
        texts, vectors = await asyncio.gather(
            local.embed_texts(["red"], "fake-2"), local.embed_images(images, "fake-2")
        )
        expected = RandomFeatureScorer().embed_texts(["red"])[0].vector
        np.testing.assert_array_equal(texts[0].vector, expected)
        assert vectors.shape == (1, len(expected))
        assert len(second.threads) == 1
        assert second.threads[0] != "engine"


async def test_what_waits_for_a_load_that_never_ends_fails_when_the_engine_closes() -> None:
    second, inbox, running = Second(), Inbox(), Inbox()
    second.gate.clear()
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), inbox)
        local.submit(spec("gen_b"), running)
        calls = [asyncio.create_task(local.embed_texts(["red"], "fake-2")) for _ in range(2)]
        await second.until_asked()
        await running.outcome()
        await local.close(0)
        assert isinstance(await inbox.error(), Draining)
        assert local.stats().held == 0
        for call in calls:
            with pytest.raises(Draining, match="has stopped"):
                await call
        with pytest.raises(Draining, match="has stopped"):
            await local.embed_texts(["red"], "fake-2")
        assert not second.member.is_loaded
        assert not second.gate.is_set(), "nothing waited for the load"
    assert all(each.daemon for each in threading.enumerate() if each.name == "load fake-2")
    assert len(second.threads) == 1


async def test_a_load_that_ends_while_the_engine_drains_is_waited_for() -> None:
    second, inbox = Second(), Inbox()
    second.gate.clear()
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), inbox)
        await second.until_asked()
        closing = asyncio.create_task(local.close(60))
        while not local.stats().draining:
            await asyncio.sleep(0.001)
        second.gate.set()
        assert "fake-2" in (await inbox.outcome()).members
        await closing


async def test_what_waits_for_a_load_fails_when_the_engine_dies() -> None:
    second, inbox = Second(), Inbox()
    second.gate.clear()
    async with engine(second) as local:
        local.submit(spec("gen_a", ranking=BOTH), inbox)
        call = asyncio.create_task(local.embed_texts(["red"], "fake-2"))
        await second.until_asked()
        vars(local)["_inbox"].put(lambda _: 1 / 0)
        assert isinstance(await inbox.error(), EngineDead)
        with pytest.raises(EngineDead):
            await call
        assert not second.gate.is_set()


async def test_a_segment_that_waits_for_a_load_fails_when_its_worker_closes() -> None:
    second = Second()
    second.gate.clear()
    async with engine(second, SegmentEngine) as local:
        assert isinstance(local, SegmentEngine)
        segment = Segment("gen_a.0", spec(ranking=BOTH), 0, tuple(SegmentRow(i) for i in range(4)))
        running = asyncio.create_task(local.run_segment(segment, lambda _: None))
        await second.until_asked()
        await local.close(0)
        with pytest.raises(Draining):
            await running
        assert not second.gate.is_set()


async def test_a_segment_of_a_worker_waits_for_it_too() -> None:
    second = Second()
    async with engine(second, SegmentEngine) as local:
        assert isinstance(local, SegmentEngine)
        segment = Segment("gen_a.0", spec(ranking=BOTH), 0, tuple(SegmentRow(i) for i in range(4)))
        done = await local.run_segment(segment, lambda _: None)
    assert all(np.isfinite(row.members["fake-2"]).all() for row in done.rows)
    assert len(second.threads) == 1
    assert second.threads[0] != "engine"
