"""The engine's thread: what crosses it, how it refuses, drains and dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.protocols import Cancelled, Failed, Stepped, Succeeded, Update
from app.engine.scheduler import Scheduler
from app.engine.warmup import Progress
from app.errors import Draining, EngineDead, EngineFailed, Loading, Overloaded, TooLarge
from models.protocols import Embeddings, Images, Latent, Models, Pixels, StepRow
from tests.synthetic_models import InstrumentedGenerator, InstrumentedScorer
from tests.unit.engine_kit import Inbox, spec

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@asynccontextmanager
async def engine(
    load: Callable[[], Models] | None = None, drain_s: float = 10, **config: int
) -> AsyncIterator[tuple[LocalEngine, list[BaseException]]]:
    deaths: list[BaseException] = []
    load = load or (lambda: Models(InstrumentedGenerator(), InstrumentedScorer()))
    local = LocalEngine(load, EngineConfig(**config), deaths.append)  # type: ignore[arg-type]
    local.start()
    while not local.stats().ready and not local.stats().dead:
        await asyncio.sleep(0.005)
    try:
        yield local, deaths
    finally:
        await local.close(drain_s)


def slow(delay_s: float = 0.02) -> Models:
    return Models(InstrumentedGenerator(delay_s=delay_s), InstrumentedScorer())


@pytest.mark.parametrize(("together_s", "fewest", "most"), [(0.0, 50, 60), (1000.0, 2, 4)])
async def test_steps_that_follow_quickly_are_told_together(
    together_s: float, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.local.STEPS_TOGETHER_S", together_s)
    async with engine() as (local, _):
        inbox, batches = Inbox(), list[int]()

        def told(updates: Sequence[Update]) -> None:
            batches.append(len(updates))
            inbox(updates)

        local.submit(spec(steps=50, n_candidates=2), told)
        assert isinstance(await inbox.last(), Succeeded)
        assert [u.step for u in inbox.updates if isinstance(u, Stepped)] == [*range(1, 51)]
        assert fewest <= len(batches) <= most


async def test_updates_come_back_on_the_loop_and_counts_return_to_zero() -> None:
    async with engine() as (local, deaths):
        inboxes = [Inbox() for _ in range(8)]
        for i, inbox in enumerate(inboxes):
            local.submit(spec(f"g{i}", n_candidates=i + 1, seed=i), inbox)
        assert local.stats().held == 36
        lasts = [await inbox.last() for inbox in inboxes]
        assert all(isinstance(last, Succeeded) for last in lasts)
        while (stats := local.stats()).held:
            await asyncio.sleep(0.005)
        assert (stats.queued, stats.running) == (0, 0)
        assert stats.rows_stepped == 36 * 6
        assert stats.seconds_per_candidate > 0
        assert not deaths


async def test_admission_is_counted_in_candidates() -> None:
    async with engine(lambda: slow(), capacity=10) as (local, _):
        first, second = Inbox(), Inbox()
        local.submit(spec("a", n_candidates=8), first)
        with pytest.raises(Overloaded) as refused:
            local.submit(spec("b", n_candidates=3), second)
        assert 1 <= refused.value.retry_after_s <= 120
        local.submit(spec("c", n_candidates=2), second)
        await first.last()
        await second.last()
        local.submit(spec("d", n_candidates=10), (third := Inbox()))
        assert isinstance(await third.last(), Succeeded)


async def test_before_the_models_are_loaded_it_says_so() -> None:
    local = LocalEngine(lambda: slow(), EngineConfig(), lambda _: None)
    with pytest.raises(Loading):
        _ = local.generator
    with pytest.raises(Loading):
        local.submit(spec(), Inbox())
    local.start()
    await local.close(0)


async def test_every_part_of_the_start_is_named_while_it_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    progress = Progress()

    class Watching(InstrumentedGenerator):
        def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
            seen.append(local.stats().part)
            return super().step(rows, size)

        def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
            seen.append(local.stats().part)
            return super().decode(latents, preview=preview)

    def load() -> Models:
        progress("loading the scorer")
        seen.append(local.stats().part)
        with pytest.raises(Loading, match="loading the scorer"):
            local.submit(spec(), Inbox())
        return Models(Watching(), InstrumentedScorer())

    local = LocalEngine(load, EngineConfig(), lambda _: None, progress)
    with caplog.at_level("INFO"):
        local.start()
        while not local.stats().ready:
            await asyncio.sleep(0.005)
        await local.close(0)
    parts = ["loading the scorer", "timing a step", "timing a decode", "timing larger calls"]
    assert list(dict.fromkeys(seen)) == parts
    assert [r.getMessage() for r in caplog.records if r.name == "app.engine.warmup"] == [
        f"start-up: {part}" for part in ("loading the models", *parts, "ready")
    ]


async def test_cancel_reaches_a_running_generation() -> None:
    async with engine(lambda: slow()) as (local, _):
        inbox = Inbox()
        local.submit(spec(steps=200, n_candidates=2), inbox)
        while not inbox.updates:
            await asyncio.sleep(0.01)
        local.cancel("gen_a")
        assert isinstance(await inbox.last(), Cancelled)
        assert local.stats().rows_stepped < 400


async def test_closing_drains_what_runs_and_refuses_what_is_new() -> None:
    async with engine(lambda: slow()) as (local, _):
        inbox = Inbox()
        local.submit(spec(), inbox)
        closing = asyncio.create_task(local.close(10))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            local.submit(spec("b"), Inbox())
        await closing
        assert isinstance(inbox.updates[-1], Succeeded)


async def test_closing_cancels_what_does_not_end_in_time() -> None:
    async with engine(lambda: slow()) as (local, _):
        inbox = Inbox()
        local.submit(spec(steps=900), inbox)
        await local.close(0.1)
        assert isinstance(inbox.updates[-1], Cancelled)


async def test_death_outside_a_tick_fails_every_waiter_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Scheduler) -> None:
        raise MemoryError("the loop itself broke")

    monkeypatch.setattr(Scheduler, "plan", broken)
    deaths: list[BaseException] = []
    local = LocalEngine(lambda: slow(), EngineConfig(), deaths.append)
    local.start()
    while not local.stats().ready:
        await asyncio.sleep(0.005)
    inboxes = [Inbox(), Inbox()]
    local.submit(spec("a"), inboxes[0])
    local.submit(spec("b"), inboxes[1])
    for inbox in inboxes:
        last = await inbox.last()
        assert isinstance(last, Failed)
        assert isinstance(last.error, EngineDead)
    assert [type(d) for d in deaths] == [MemoryError]
    assert local.stats().dead
    with pytest.raises(EngineDead):
        local.submit(spec("c"), Inbox())
    with pytest.raises(EngineDead):
        await local.embed_texts(["x"])
    await local.close(0)


async def test_models_that_do_not_load_are_a_death() -> None:
    def broken() -> Models:
        raise OSError("no such weights")

    async with engine(broken) as (local, deaths):
        assert local.stats().dead
        assert isinstance(deaths[0], OSError)


async def test_one_off_calls_are_answered_beside_a_running_generation() -> None:
    async with engine(lambda: slow(0.06)) as (local, _):
        inbox = Inbox()
        local.submit(spec(steps=30), inbox)
        images = [np.full((side, side, 3), 10 * i, np.uint8) for i, side in enumerate((8, 16, 8, 4))]
        vectors = await local.embed_images(images)
        for i, image in enumerate(images):
            np.testing.assert_allclose(vectors[i], InstrumentedScorer().embed_images(image[None])[0], atol=1e-6)
        assert (await local.embed_texts(["red"]))[0].vector.shape == (13,)
        assert not isinstance(inbox.updates[-1] if inbox.updates else None, Succeeded)
        last = await inbox.last()
        assert isinstance(last, Succeeded)
        pictures = await local.decode(last.outcome.latents)
        assert pictures.shape == (4, 64, 64, 3)


async def test_a_failed_one_off_call_is_typed_and_hurts_nobody_else() -> None:
    class Picky(InstrumentedScorer):
        def embed_images(self, pixels: Pixels) -> Embeddings:
            if pixels.shape[1] == 8:
                raise ValueError("/secret/path")
            return super().embed_images(pixels)

    async with engine(lambda: Models(InstrumentedGenerator(), Picky())) as (local, deaths):
        with pytest.raises(EngineFailed) as failed:
            await local.embed_images([np.zeros((8, 8, 3), np.uint8)])
        assert "secret" not in failed.value.detail
        assert len(await local.embed_texts(["red"])) == 1
        assert not deaths
    async with engine(lambda: Models(InstrumentedGenerator(), InstrumentedScorer(max_rows=8))) as (local, _):
        with pytest.raises(TooLarge):
            await local.embed_images([np.zeros((8, 8, 3), np.uint8)] * 9)
