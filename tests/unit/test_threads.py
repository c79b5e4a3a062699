"""What runs in a thread and what wakes the event loop: counted, since each costs more than small work."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.protocols import Stepped
from app.service.candidates.threads import SMALL_PIXELS, run_in_thread
from app.service.generations.pruning_policy import PruningPolicy
from app.service.generations.recording.inbox import UpdateInbox
from app.service.generations.spec import build_spec
from app.stores.connections import dialect_insert
from models.guards import artefacts
from tests.unit.service_kit import house

pytestmark = pytest.mark.anyio


def _step(number: int) -> Stepped:
    return Stepped(number, 50, 1, 0.0)


async def test_small_work_runs_at_once_and_large_work_in_a_thread() -> None:
    here = threading.get_ident()
    assert await run_in_thread(SMALL_PIXELS, threading.get_ident) == here
    assert await run_in_thread(SMALL_PIXELS + 1, threading.get_ident) != here


async def test_updates_that_may_wait_are_taken_together() -> None:
    inbox = UpdateInbox()
    taking = asyncio.create_task(inbox.take(None))
    await asyncio.sleep(0)
    for number in range(50):
        inbox.put([_step(number)], 60.0)
        await asyncio.sleep(0)
    assert not taking.done(), "one wake for all of them"
    inbox.put([_step(50)], 0.0)
    assert [u.step for u in await taking if isinstance(u, Stepped)] == [*range(51)]


async def test_a_sooner_update_and_a_due_write_shorten_the_wait() -> None:
    async with asyncio.timeout(20):
        inbox = UpdateInbox()
        taking = asyncio.create_task(inbox.take(60.0))
        await asyncio.sleep(0)
        inbox.put([_step(1)], 0.01)
        inbox.put([_step(2)], 60.0)
        assert len(await taking) == 2
        assert await inbox.take(0.0) == []
        inbox.put([_step(3)], 0.01)
        await asyncio.sleep(0.03)
        assert len(await inbox.take(None)) == 1, "what came before the wait counts"
        inbox.put([], 0.0)
        assert await inbox.take(None) == []


@pytest.mark.parametrize("pruning", ["off", "auto"])
async def test_a_spec_without_a_plan_is_built_at_once(
    pruning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def recorded(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return build_spec(*args)

    monkeypatch.setattr("app.service.generations.admission.build_spec", recorded)
    async with house(tmp_path, pruning=PruningPolicy(pruning)) as h:
        await h.made(n_candidates=2, n=1)
    assert threads == [threading.get_ident()], "the models of this service have no calibration"


async def test_a_small_generation_needs_no_thread_for_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as h:
        await h.made(n_candidates=1)
        run, threads = asyncio.to_thread, list[Any]()

        async def counted(work: Any, *args: Any) -> Any:
            threads.append(work)
            return await run(work, *args)

        monkeypatch.setattr(asyncio, "to_thread", counted)
        await h.made(n_candidates=1)
        assert threads == []
        await h.made(n_candidates=1, width=256, height=256)
        assert [getattr(work, "func", work).__name__ for work in threads] == ["inspect", "build_final"]
        threads.clear()
        await h.made(n_candidates=1, output_size=(512, 512))
        assert [getattr(work, "func", work).__name__ for work in threads] == ["build_final"], "scaled before encoding"


def test_small_images_of_one_shape_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (side, side, 3), np.uint8) for side in (64, 512, 64, 512, 32, 64)]
    alone = [artefacts.measure(image) for image in images]
    sizes: list[tuple[int, ...]] = []
    measured = artefacts._measured

    def counted(part: Any, limits: Any) -> Any:
        sizes.append((len(part), part[0].shape[0]))
        return measured(part, limits)

    monkeypatch.setattr(artefacts, "_measured", counted)
    assert artefacts.measure_all(images) == alone
    assert sizes == [(3, 64), (1, 512), (1, 512), (1, 32)]
    assert artefacts.measure_all([]) == []
    assert len(artefacts.measure_all([images[0]] * 100)) == 100
    assert sizes[4:] == [(64, 64), (36, 64)]


def test_flags_are_those_of_each_image_alone() -> None:
    random = np.random.default_rng(1)
    base = [np.repeat(np.repeat(random.integers(60, 200, (8, 8, 3), np.uint8), 8, 0), 8, 1) for _ in range(30)]
    limits = artefacts.fit_limits([artefacts.measure(image) for image in base])
    odd = [
        np.full((64, 64, 3), 90, np.uint8),
        random.integers(0, 256, (64, 64, 3), np.uint8),
        np.tile(random.integers(0, 256, (16, 16, 3), np.uint8), (4, 4, 1)),
        np.tile(np.asarray([[[255, 0, 0], [0, 0, 255]]], np.uint8).repeat(2, 0), (32, 32, 1)),
    ]
    reasons = partial(artefacts.reasons, limits=limits)
    found = [reasons(each) for each in artefacts.measure_all([*base, *odd], limits)]
    assert found == [reasons(artefacts.measure(image, limits)) for image in [*base, *odd]]
    assert all(found[30:])
    assert not any(found[:30])


async def test_the_statement_of_events_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []

    def counted(connection: Any, table: Any) -> Any:
        built.append(table)
        return dialect_insert(connection, table)

    monkeypatch.setattr("app.stores.generations.writes.dialect_insert", counted)
    async with house(tmp_path) as h:
        for _ in range(3):
            await h.made(n_candidates=1)
    assert len(built) == 1
