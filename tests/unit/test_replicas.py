"""Workers that join and leave by themselves, over a link without Ray."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.domain import Checkpoint
from app.engine.cluster import hedging
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.replicas import body as bodies
from app.engine.cluster.replicas import fleet
from app.engine.cluster.replicas.wire import AnswerKind, ErrorNote, answer, error_of, note_of
from app.engine.config import EngineConfig
from app.engine.segments import codec
from app.engine.segments.messages import Segment, SegmentRow
from app.errors import EngineDead, EngineFailed, FrontrunnerError, Interrupted, InvalidRequest, Loading, Overloaded
from models.errors import ScoringFailed
from models.protocols import GeneratorInfo, Models, ScoringInfo
from tests.unit.cluster_kit import Faults, FaultyGenerator, KeepingGenerator, alone, assert_same, models, race
from tests.unit.engine_kit import Inbox, spec
from tests.unit.replica_kit import FakeLink, faulty, replicas

pytestmark = pytest.mark.anyio

CUTS = (Checkpoint(2, 12), Checkpoint(4, 6))


@pytest.fixture(autouse=True)
def _no_hedging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits for a core is not late."""
    monkeypatch.setattr(hedging, "WORTH", math.inf)
    monkeypatch.setattr(hedging, "SILENT_S", math.inf)


class OtherWeights(FaultyGenerator):
    @property
    def info(self) -> GeneratorInfo:
        return replace(super().info, revision="another")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("workers", [1, 3])
async def test_replicas_make_what_one_process_makes(workers: int) -> None:
    one = spec(n_candidates=20, n=3, checkpoints=CUTS)
    link = FakeLink(faulty(Faults()))
    async with replicas(link, *(f"r{i}" for i in range(workers))) as (engine, _):
        outcome, _inbox = await race(engine, one)
        stats = engine.stats()
        found = await engine.embed_texts(["a red apple"])
    assert_same(outcome, alone(one))
    assert link.segments
    assert link.segments <= {f"r{i}" for i in range(workers)}
    assert stats.rows_stepped == outcome.work.rows_stepped
    assert (stats.workers, stats.running) == (workers, 0)
    assert found[0].vector.shape == outcome.query.prompt.shape


async def test_killed_replicas_change_nothing_but_the_time() -> None:
    """A killed one fails its calls; one that is stopped ends what it runs."""
    one, faults = spec(n_candidates=200, n=3, checkpoints=CUTS), Faults()
    link = FakeLink(faulty(faults))
    async with replicas(link, "r0", "r1", "r2") as (engine, _):
        inbox = Inbox()
        engine.submit(one, inbox)
        await until(lambda: len(link.segments) == 3)
        link.kill("r0")
        link.stop("r1")
        await link.add("r3")
        outcome = await inbox.outcome()
        assert engine.stats().workers_ready == 2
        assert [to for to, kind in link.asked if (to, kind) == ("r3", "describe")] == ["r3"]
    assert_same(outcome, alone(one))


async def test_a_replica_that_has_left_costs_no_attempt_and_no_counter_falls() -> None:
    """Serve routes its requests to another one, which says that they were not meant."""
    one, link = spec(n_candidates=100), FakeLink()
    async with replicas(link, "r0", "r1", max_attempts=1) as (engine, _):
        link.hide("r0")
        outcome, _inbox = await race(engine, one)
        stepped = engine.stats().rows_stepped
        link.kill("r1")
        assert engine.stats().rows_stepped == stepped == outcome.work.rows_stepped
        await link.add("r2")
        assert len(await engine.embed_texts(["a red apple"])) == 1
    assert_same(outcome, alone(one))
    assert ("r0", "segment") in link.asked


async def test_a_replica_that_loses_a_request_and_runs_on_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "AGAIN_S", 0.01)
    one, link = spec(n_candidates=8), FakeLink(breaks=1)
    async with replicas(link, "r0") as (engine, _):
        outcome, _inbox = await race(engine, one)
        assert (engine.stats().workers, engine.stats().workers_ready) == (1, 1)
    assert [kind for to, kind in link.asked if to] == ["describe", "segment", "describe", "segment"]
    assert_same(outcome, alone(one))


async def test_fronts_that_run_one_generation_do_not_disturb_each_other() -> None:
    """A front whose lease has lapsed runs on while another one has taken its generation over."""
    one, first = spec(n_candidates=8, steps=30), FakeLink(faulty(Faults()))
    second = FakeLink(bodies=first.bodies)
    async with replicas(first, "r0") as (engine, deaths):
        other = ClusterEngine([], EngineConfig(), deaths.append, link=second)
        other.start()
        second.on_replicas(frozenset({"r0"}))
        await until(lambda: other.stats().ready)
        inboxes = Inbox(), Inbox()
        engine.submit(one, inboxes[0])
        other.submit(one, inboxes[1])
        outcomes = [await inbox.outcome() for inbox in inboxes]
        second.bodies = {}
        await other.close(0)
    for outcome in outcomes:
        assert_same(outcome, alone(one))


async def test_a_cancel_may_overtake_its_segment() -> None:
    faults = Faults()
    link = FakeLink(faulty(faults))
    segment = Segment("gen_a.1.0", spec(n_candidates=2), 0, (SegmentRow(0, None), SegmentRow(1, None)))
    async with replicas(link, "r0"):
        body, began = link.bodies["r0"], dict(faults.began)
        assert len([each async for each in body.answers("r0", "cancel", codec.encode(segment.id))]) == 1
        answers = [each async for each in body.answers("r0", "segment", codec.encode(segment))]
    assert [each[:1] for each in answers] == [b"c"]
    assert faults.began == began


async def test_replicas_forget_latents_that_only_they_have() -> None:
    one = spec(n_candidates=12, checkpoints=CUTS)
    kept = FakeLink(lambda name: replace(models(name), generator=KeepingGenerator(name, Faults(), 0.0)))
    sent = FakeLink()
    for link in (kept, sent):
        async with replicas(link, "r0") as (engine, _):
            outcome, _inbox = await race(engine, one)
        assert_same(outcome, alone(one))
    assert kept.asked.count(("r0", "forget")) == 1
    assert ("r0", "forget") not in sent.asked


async def test_weights_on_workers_take_no_memory_here() -> None:
    async with replicas(FakeLink(lambda name: replace(models(name), weight_bytes=7)), "r0") as (engine, _):
        assert engine.stats().weight_bytes == 0


async def test_work_waits_for_a_replica_and_starts_one() -> None:
    one = spec(n_candidates=8)
    link = FakeLink(wakes="r0")
    async with replicas(link) as (engine, _):
        link.kill("r0")
        assert engine.stats().ready
        assert engine.stats().workers_ready == 0
        link.wakes = "r1"
        outcome, _inbox = await race(engine, one)
        link.kill("r1")
        link.wakes = "r2"
        assert len(await engine.embed_texts(["a"])) == 1
    assert_same(outcome, alone(one))
    assert [to for to, kind in link.asked if kind == "describe" and to] == ["r0", "r1", "r2"]


async def test_a_cluster_that_goes_away_in_mid_race_ends_it_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "AWAY_S", 0.2)
    faults = Faults()
    link = FakeLink(faulty(faults))
    async with replicas(link, "r0", "r1") as (engine, deaths):
        inbox = Inbox()
        engine.submit(spec(n_candidates=200, steps=40), inbox)
        await until(lambda: len(link.segments) == 2)
        link.away()
        assert not engine.stats().ready
        with pytest.raises(Loading):
            engine.check_capacity(1)
        with pytest.raises(Loading):
            await engine.embed_texts(["a"])
        error = await inbox.error()
        assert type(error) is EngineDead
        assert "no worker for this model" in str(error)
        link.start()
        await link.add("r5")
        again, _inbox = await race(engine, spec("gen_b"))
        assert deaths == []
    assert_same(again, alone(spec("gen_b")))


async def test_a_replica_of_another_revision_is_refused_and_told(caplog: pytest.LogCaptureFixture) -> None:
    def other(name: str) -> Models:
        return replace(models(name), generator=OtherWeights(name, Faults(), 0.0))

    one = spec(n_candidates=12)
    link = FakeLink()
    async with replicas(link, "r0") as (engine, deaths):
        await link.add("r1", other)
        await until(lambda: "a worker was refused" in caplog.text)
        outcome, _inbox = await race(engine, one)
        assert (engine.stats().workers, engine.stats().workers_ready) == (2, 1)
        assert link.segments == {"r0"}
        assert deaths == []
        inbox = Inbox()
        engine.submit(spec("gen_b", n_candidates=8, steps=1_000), inbox)
        await until(lambda: engine.stats().running == 8)
        link.stop("r0")
        engine.cancel("gen_b")
        await until(lambda: bool(deaths))
        assert "restart the front" in str(deaths[0])
    assert_same(outcome, alone(one))


async def test_a_replica_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "__version__", "9.9")
    link = FakeLink()
    async with replicas(link, "r0") as (engine, deaths):
        assert "it runs Frontrunner 9.9" in str(deaths[0])
        assert not engine.stats().ready


async def test_a_replica_whose_description_is_lost_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By an error of the worker, one on the way, and no answer; each time it waits longer."""
    monkeypatch.setattr(fleet, "RETRY_S", (0.0, 0.001, 0.002))
    monkeypatch.setattr(fleet, "ASK_S", 0.5)
    failed = answer(AnswerKind.ERROR, note_of(TimeoutError()))
    one, link = spec(n_candidates=8), FakeLink(described=[failed, ConnectionResetError(), None, failed])
    async with replicas(link, "r0") as (engine, deaths):
        outcome, _inbox = await race(engine, one)
        assert (engine.stats().workers, engine.stats().workers_ready, deaths) == (1, 1, [])
    assert [kind for to, kind in link.asked if to] == [*["describe"] * 5, "segment"]
    told = [each.getMessage() for each in caplog.records if "did not say" in each.getMessage()]
    assert [each.rpartition(" ")[2] for each in told] == [
        "(TimeoutError)",
        "ConnectionResetError",
        "TimeoutError",
        "(TimeoutError)",
    ]
    assert_same(outcome, alone(one))


async def test_a_front_says_why_its_first_replica_cannot_join_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "RETRY_S", (60.0,))
    link = FakeLink(described=[ConnectionResetError()])
    engine = ClusterEngine([], EngineConfig(), lambda _: None, link=link)
    engine.start()
    await link.add("r0")
    await until(lambda: "ConnectionResetError" in engine.stats().part)
    assert not engine.stats().ready
    link.kill("r0")
    assert engine.stats().part.endswith("waiting for its first worker")
    await link.add("r0")
    await until(lambda: engine.stats().ready)
    await engine.close(0)


@pytest.mark.parametrize("sent", [b"?", answer(AnswerKind.RESULT, 1)], ids=["bytes", "value"])
async def test_a_replica_that_sends_no_description_is_refused_while_it_runs(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "RETRY_S", (0.0,))
    link = FakeLink(described=[sent])
    async with replicas(link, "r0") as (_, deaths):
        assert "no worker of application fake fits: the worker" in str(deaths[0])
    assert [kind for to, kind in link.asked if to] == ["describe"]


async def test_an_application_that_cannot_be_deployed_is_a_death_with_its_reason() -> None:
    link = FakeLink()
    link.start()
    link.state.application, link.state.problem = "DEPLOY_FAILED", "no such pack"
    link.start = lambda: None  # type: ignore[method-assign]
    async with replicas(link) as (engine, deaths):
        assert "no such pack" in str(deaths[0])
        with pytest.raises(EngineDead):
            _ = engine.generator


async def test_a_request_that_kills_its_replicas_ends() -> None:
    faults = Faults(deadly={5_000})
    link = FakeLink(faulty(faults))
    async with replicas(link, "r0", "r1", "r2") as (engine, _):
        inbox = Inbox()
        engine.submit(spec(n_candidates=1, seed=5_000), inbox)
        error = await inbox.error()
        assert len(faults.deaths) == 2
        other, _inbox = await race(engine, spec("gen_b"))
    assert type(error) is Interrupted
    assert_same(other, alone(spec("gen_b")))


async def test_cancelling_frees_the_replicas() -> None:
    faults = Faults()
    link = FakeLink(faulty(faults))
    async with replicas(link, "r0") as (engine, _):
        inbox = Inbox()
        engine.submit(spec(n_candidates=8, steps=1_000), inbox)
        await until(lambda: engine.stats().running == 8)
        engine.cancel("gen_a")
        await until(lambda: engine.stats().running == 0)
        assert ("r0", "cancel") in link.asked


async def test_a_replica_refuses_what_is_no_call_and_what_is_for_another_one() -> None:
    link = FakeLink()
    async with replicas(link, "r0") as (engine, _):
        worker = engine._dispatcher.slots[0].worker
        with pytest.raises(EngineFailed):
            await worker.call("close", 0)
        answers = [each async for each in link.bodies["r0"].answers("r9", "describe", b"")]
    assert len(answers) == 1
    assert answers[0][:1] == b"a"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("too wide", pointer="/width"),
        Overloaded("busy", retry_after_s=7.0),
        Interrupted("gone"),
        EngineFailed("broken"),
    ],
)
def test_errors_cross_with_their_kind(error: FrontrunnerError) -> None:
    back = error_of(note_of(error))
    assert isinstance(back, FrontrunnerError)
    assert type(back) is type(error)
    assert (back.detail, back.pointer) == (error.detail, error.pointer)
    assert getattr(back, "retry_after_s", None) == getattr(error, "retry_after_s", None)


async def test_why_a_scorer_gave_no_scores_crosses() -> None:
    """The front warns of it: a budget that is spent is no fault of the device."""

    class Spent:
        info = ScoringInfo("judge", "1", "cpu")

        def score(self, images: Any, text: str) -> Any:
            raise ScoringFailed("budget_spent", "judge has no room left in its 3 calls of today")

    def load(name: str) -> Models:
        return replace(models(name), members=(Spent(),))

    async with replicas(FakeLink(load), "r0") as (engine, _):
        with pytest.raises(ScoringFailed, match="no room left in its 3 calls") as failed:
            await engine.score_images([np.zeros((64, 64, 3), np.uint8)], "a red apple", "judge")
    assert failed.value.reason == "budget_spent"


def test_other_errors_cross_without_their_text() -> None:
    back = error_of(note_of(OSError("/secret/path")))
    assert isinstance(back, EngineFailed)
    assert "secret" not in back.detail
    assert type(error_of(ErrorNote("NoSuchError", "x", None, None))) is EngineFailed
