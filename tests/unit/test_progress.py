"""How far a generation is: in the engine, in the log, and on any replica."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain import Checkpoint, EventKind, Progress, Status
from app.engine.protocols import Finished, Pruned, Stepped
from app.service import GenerationParams
from app.service.generations import recorder
from app.stores.generations import SqlGenerationStore
from tests.unit.engine_kit import Bench, spec
from tests.unit.service_kit import house
from tests.unit.store_kit import MINE, STEP, THEIRS, generation

pytestmark = pytest.mark.slow


def shares(bench: Bench) -> list[float]:
    return [u.progress for u in bench.updates["gen_a"] if isinstance(u, Stepped | Pruned | Finished)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"checkpoints": (Checkpoint(3, 2),)}, {"n_candidates": 12, "wave": 4}, {"steps": 1}],
    ids=["all", "pruned", "waves", "one-step"],
)
def test_progress_grows_to_the_whole(changes: dict[str, Any]) -> None:
    bench = Bench()
    bench.submit(spec(**changes))
    bench.run()
    found = shares(bench)
    assert found == sorted(found)
    assert found[0] > 0
    candidates = len(bench.outcome().candidates)
    assert found[-1] == pytest.approx(candidates / spec(**changes).n_candidates)


def test_a_pruned_candidate_counts_as_complete() -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=4, steps=6, checkpoints=(Checkpoint(3, 1),)))
    bench.run()
    pruned = next(u for u in bench.updates["gen_a"] if isinstance(u, Pruned))
    assert pruned.live == 1
    assert pruned.progress == pytest.approx((3 * 7 + 3) / 28)


@pytest.mark.anyio
async def test_the_store_keeps_the_newest_progress(records: SqlGenerationStore) -> None:
    await records.create(generation(), [], MINE)
    assert (await records.get("gen_a") or generation()).progress == Progress()
    assert await records.append("gen_a", [STEP], MINE, Progress(0.25, 5, 3))
    assert await records.append("gen_a", [], MINE)
    assert not await records.append("gen_a", [], THEIRS, Progress(0.9))
    assert await records.get("gen_a") == replace(generation(), progress=Progress(0.25, 5, 3))
    assert await records.release(generation(status=Status.QUEUED), MINE)
    assert await records.get("gen_a") == generation(status=Status.QUEUED)


@pytest.mark.anyio
async def test_every_replica_knows_how_far_a_generation_is(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.1) as one, house(tmp_path) as two:
        running = await one.service.submit(GenerationParams("x", steps=150, n_candidates=2))
        assert (running.status, running.completed) == (Status.QUEUED, 0.0)
        async with asyncio.timeout(60):
            while not (seen := await two.service.get(running.id)).progress.step:
                await asyncio.sleep(0.05)
        assert 0 < seen.completed < 1
        assert seen.progress.live == 2
        cancelled = await two.service.cancel(running.id)
        assert (cancelled.status, cancelled.completed > 0) == (Status.CANCELLED, True)
        assert cancelled.completed < 1


@pytest.mark.anyio
@pytest.mark.parametrize("followed", [False, True])
async def test_steps_alone_are_seldom_written_unless_a_client_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    monkeypatch.setattr(recorder, "STEP_WRITE_INTERVAL_S", 600.0)
    monkeypatch.setattr(recorder, "MIN_WRITE_INTERVAL_S", 0.0)
    async with house(tmp_path, delay_s=0.1 if followed else 0.03) as h:  # a busy machine writes several steps at once
        asked = await h.service.submit(GenerationParams("x", steps=30, n_candidates=1))
        if followed:
            async for _ in h.service.watch(asked.id):
                pass
        done = await h.service.wait(asked.id)
        told = [e.data for e in await h.records.events(asked.id, 0) if e.kind is EventKind.STEP]
        assert (len(told) > 5) == followed
        assert told[-1] == {"step": 30, "steps": 30, "live": 1, "progress": pytest.approx(30 / 31, abs=1e-4)}
        assert done.completed == 1
