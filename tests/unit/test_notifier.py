"""Many readers of one event log."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from app.domain import Event, EventKind
from app.errors import StoreUnavailable
from app.service.generations.event_log import EventLogReader, Notifier
from app.stores.protocols import GenerationStore

pytestmark = pytest.mark.anyio


class Counted:
    """Logs of one line, read one at a time when allowed."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, int]] = []
        self.allowed = asyncio.Event()
        self.error: StoreUnavailable | None = None

    async def events(self, generation_id: str, after: int) -> list[Event]:
        self.reads.append((generation_id, after))
        await self.allowed.wait()
        if self.error is not None:
            raise self.error
        return [Event(after + 1, EventKind.STEP, {}, 0.0)]


async def test_who_waits_for_the_same_lines_shares_a_reading() -> None:
    store, notifier = Counted(), Notifier()
    logs = EventLogReader(cast(GenerationStore, store))
    changed = notifier.subscribe("gen_a")
    readers = [asyncio.create_task(logs.read("gen_a", seq, changed)) for seq in (4, 4, 4, 7)]
    await asyncio.sleep(0)
    store.allowed.set()
    assert [lines[0].seq for lines in await asyncio.gather(*readers)] == [5, 5, 5, 8]
    assert store.reads == [("gen_a", 4), ("gen_a", 7)]


async def test_who_comes_after_the_news_reads_anew() -> None:
    store, notifier = Counted(), Notifier()
    logs = EventLogReader(cast(GenerationStore, store))
    early = asyncio.create_task(logs.read("gen_a", 0, notifier.subscribe("gen_a")))
    await asyncio.sleep(0)
    notifier.notify("gen_a")
    late = asyncio.create_task(logs.read("gen_a", 0, notifier.subscribe("gen_a")))
    await asyncio.sleep(0)
    store.allowed.set()
    await asyncio.gather(early, late)
    assert len(store.reads) == 2


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    store, notifier = Counted(), Notifier()
    logs = EventLogReader(cast(GenerationStore, store))
    changed = notifier.subscribe("gen_a")
    first, second = (asyncio.create_task(logs.read("gen_a", 0, changed)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    store.allowed.set()
    assert len(await second) == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_all_hear_of_a_store_that_is_out_of_reach() -> None:
    store, notifier = Counted(), Notifier()
    store.error = StoreUnavailable("away")
    store.allowed.set()
    logs = EventLogReader(cast(GenerationStore, store))
    changed = notifier.subscribe("gen_a")
    heard = await asyncio.gather(*(logs.read("gen_a", 0, changed) for _ in range(2)), return_exceptions=True)
    assert [type(each) for each in heard] == [StoreUnavailable, StoreUnavailable]
