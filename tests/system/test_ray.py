"""Workers on a real Ray cluster of this machine: same results, deaths, other models, a cluster that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.domain import Checkpoint
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.replicas import fleet
from app.engine.cluster.replicas.link import Link
from app.engine.cluster.replicas.worker import ReplicaWorker
from app.engine.config import EngineConfig
from app.errors import EngineDead
from app.model_loading import application_name
from app.workers.head import LocalCluster
from models.registry import load_models
from tests.unit.cluster_kit import alone, assert_same, race, replace
from tests.unit.engine_kit import Inbox, spec

pytest.importorskip("ray", reason="needs frontrunner[cluster]")
pytestmark = [pytest.mark.soak, pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CUTS = (Checkpoint(6, 24), Checkpoint(12, 8))
LIMIT_S = 240


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FRONTRUNNER_GENERATOR": "fake",
        "FRONTRUNNER_SCORER": "fake",
        "FRONTRUNNER_DATA_DIR": str(folder),
        "PYTHONPATH": os.getcwd(),
    }
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "cluster", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder of a cluster with two workers. Paths of Ray's sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        started = command(tmp_path, "up", "--min", "2", "--max", "2", "--cpus", "0", "--gpus", "0")
        try:
            assert started.returncode == 0, started.stderr + started.stdout
            yield tmp_path
        finally:
            LocalCluster(tmp_path).stop()


def replica_pids() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:frontrunner-fake"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def front(folder: Path, workers: int = 2) -> AsyncIterator[ClusterEngine]:
    head = LocalCluster(folder).running()
    assert head is not None
    deaths: list[BaseException] = []
    link = Link(head.address, application_name("fake"))
    engine = ClusterEngine([], EngineConfig(capacity=2_048), deaths.append, link=link)
    engine.start()
    try:
        await until(lambda: engine.stats().workers_ready == workers or bool(deaths))
        assert deaths == []
        yield engine
    finally:
        await engine.close(0)


async def test_workers_of_a_real_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "AWAY_S", 2.0)
    await _same_results_also_when_one_is_killed(folder)
    await _down_in_mid_race_ends_it_with_an_error(folder)


async def _same_results_also_when_one_is_killed(folder: Path) -> None:
    one = spec(n_candidates=64, n=4, steps=20, checkpoints=CUTS)
    wanted = alone(one, given=load_models("fake", "fake"))
    async with front(folder) as engine:
        outcome, _ = await race(engine, one)
        assert_same(outcome, wanted)
        assert len(await engine.embed_texts(["a red apple"])) == 1
        names = [slot.worker.name for slot in engine._dispatcher.slots]
        told = await asyncio.gather(*(_named(engine, name) for name in 20 * names))
        assert told == 20 * names
        long = replace(one, id="gen_b", steps=200, checkpoints=())
        inbox = Inbox()
        engine.submit(long, inbox)
        await until(lambda: bool(inbox.updates))  # not for all at once: quick ones may have ended
        os.kill(replica_pids()[0], signal.SIGKILL)
        killed = await inbox.outcome()
        again, _ = await race(engine, replace(one, id="gen_c"))
        await until(lambda: engine.stats().workers_ready == 2)
        engine.submit(replace(long, id="gen_d", n_candidates=1_024), Inbox())
        await until(lambda: engine.stats().running >= 64)
        engine.cancel("gen_d")
        await until(lambda: engine.stats().running == 0)
    assert_same(again, wanted)
    assert_same(killed, alone(long, given=load_models("fake", "fake")))


async def _named(engine: ClusterEngine, name: str) -> str:
    """Which worker answers a request to this one."""
    worker = ReplicaWorker(name, engine._fleet._link)  # type: ignore[attr-defined]
    await worker.start(lambda _: None)
    return worker.about.name


async def _down_in_mid_race_ends_it_with_an_error(folder: Path) -> None:
    shown = command(folder, "status")
    assert shown.returncode == 0, shown.stderr
    assert "frontrunner-fake" in shown.stdout
    assert "2 running" in shown.stdout
    async with front(folder) as engine:
        inbox = Inbox()
        engine.submit(spec(n_candidates=1_024, steps=1_000), inbox)
        await until(lambda: engine.stats().running >= 64 and bool(inbox.updates))
        stopping = asyncio.create_task(asyncio.to_thread(command, folder, "down"))
        async with asyncio.timeout(LIMIT_S):
            error = await inbox.error()
        assert type(error) is EngineDead
        assert not engine.stats().ready
        assert "has stopped" in (await stopping).stdout
    assert replica_pids() == []
    assert LocalCluster(folder).running() is None
