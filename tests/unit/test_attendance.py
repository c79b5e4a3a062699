"""Streams that break: their generations outlive them for a while, and longer only when a client is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from app.domain import Event, Status
from app.errors import StoreUnavailable
from app.service import GenerationParams
from app.service.generations.attendance import Attendance
from app.stores.generations import SqlGenerationStore
from tests.unit.service_kit import House, house
from tests.unit.store_kit import MINE, generation, opened

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]

LONG_AGO = text("UPDATE generations SET attended = 0 WHERE attended IS NOT NULL")
EARLIER_BOOT = text("UPDATE generations SET attended = attended + 1e9 WHERE attended IS NOT NULL")


async def execute(records: SqlGenerationStore, statement: object) -> None:
    await records.connections.write(lambda connection: connection.execute(statement))  # type: ignore[call-overload]


async def test_what_no_client_follows_is_found_until_one_is_back(url: str) -> None:
    attended = replace(generation("gen_a"), attended=True)
    cancelled = replace(attended, status=Status.CANCELLED)
    async with opened(url) as one, opened(url) as two:
        await one.create(attended, [], MINE)
        await one.create(generation("gen_b"), [], MINE)
        await one.create(replace(cancelled, spec=replace(attended.spec, id="gen_c")), [], None)
        assert await two.list_unattended(10.0) == []
        for lapsed in (LONG_AGO, EARLIER_BOOT):
            await execute(one, lapsed)
            assert await two.list_unattended(10.0) == ["gen_a"]
            await one.record_attendance("gen_a")
            assert await two.list_unattended(10.0) == []
        assert not await two.settle(cancelled, [], unattended_s=10.0), "the client came back first"
        await execute(one, LONG_AGO)
        assert await two.settle(cancelled, [], unattended_s=10.0)
        assert await two.list_unattended(10.0) == []
        await one.record_attendance("gen_b")
        assert await two.list_unattended(-1.0) == [], "of others nothing is noted"


@asynccontextmanager
async def working(there: House) -> AsyncIterator[None]:
    """What a replica does beside requests."""
    task = asyncio.create_task(there.service.run_worker())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def closed(stream: AsyncIterator[Event]) -> None:
    """What becomes of a stream whose connection breaks."""
    assert isinstance(stream, AsyncGenerator)
    await stream.aclose()


async def test_a_stream_is_resumed_on_another_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, delay_s=0.2, stream_grace_s=2.0) as one, house(tmp_path, stream_grace_s=2.0) as two:
        notes = 0
        attend = two.records.record_attendance

        async def noted(generation_id: str) -> None:
            nonlocal notes
            await attend(generation_id)
            notes += 1
            if notes == 10:  # after twice the grace period it may end
                one.generator.delay_s = 0.0

        monkeypatch.setattr(two.records, "record_attendance", noted)
        async with working(one), working(two):
            running = await one.service.submit(GenerationParams("x", n_candidates=1, steps=150), attended=True)
            stream = one.service.watch(running.id)
            first = await anext(stream)
            await closed(stream)
            assert not await two.service.log_is_complete(running.id, first.seq)
            rest = [event async for event in two.service.watch(running.id, first.seq)]
        assert rest[0].seq == first.seq + 1
        assert rest[-1].kind == "succeeded"
        assert notes >= 10


async def test_a_stream_that_stays_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, delay_s=0.2, stream_grace_s=1.0) as h, working(h):
        running = await h.service.submit(GenerationParams("x", n_candidates=1, steps=150), attended=True)
        leaves, stays = h.service.watch(running.id), h.service.watch(running.id)
        await anext(leaves)
        notes = 0
        attend = h.records.record_attendance

        async def noted(generation_id: str) -> None:
            nonlocal notes
            await attend(generation_id)
            notes += 1
            if notes == 10:
                h.generator.delay_s = 0.0

        monkeypatch.setattr(h.records, "record_attendance", noted)
        ending = asyncio.create_task(_last(stays))
        await closed(leaves)
        assert (await ending).kind == "succeeded"


async def _last(stream: AsyncIterator[Event]) -> Event:
    return [event async for event in stream][-1]


async def test_a_stream_that_nobody_resumes_is_cancelled_on_any_replica(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.05) as one, house(tmp_path, stream_grace_s=0.1) as two, working(two):
        running = await one.service.submit(GenerationParams("x", n_candidates=1, steps=150), attended=True)
        other = await one.service.submit(GenerationParams("x", n_candidates=1, steps=20))
        assert (await two.service.wait(running.id)).status is Status.CANCELLED
        assert (await one.service.wait(other.id)).status is Status.SUCCEEDED
        while list(one.service._recordings):
            await asyncio.sleep(0.01)
        assert one.service.stats().rows_stepped < 150


async def test_nothing_is_cancelled_while_clients_could_not_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    looks = iter([True, False, True, True])

    class Store:
        async def list_unattended(self, span_s: float) -> list[str]:
            if not next(looks):
                raise StoreUnavailable("gone")
            return []

    async def slept(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", slept)
    with pytest.raises(asyncio.CancelledError):
        await Attendance(Store(), 10.0, None).run()  # type: ignore[arg-type]
    assert pauses == [12.0, 2.0, 12.0, 2.0, 2.0]
