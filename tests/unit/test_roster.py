"""What replicas know of each other's models: no name is refused from an old look, and looks are few."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from functools import partial

import pytest

from app.engine.registry import ElsewhereEngine
from app.errors import ModelLoadFailed, StoreUnavailable
from app.service.generations.event_log import Notifier
from app.service.serving import ModelDirectory, Roster
from app.stores.protocols import ServedModelRow
from tests.models_kit import FakeModel, Shelf, broken

pytestmark = pytest.mark.anyio

SPAN_S = 60.0
"""So long that no replica looks or publishes by itself in a test."""


class Rows:
    """The store of served models in memory; `down` makes it unavailable."""

    def __init__(self) -> None:
        self.rows: dict[str, list[ServedModelRow]] = {}
        self.reads = 0
        self.down = False

    async def publish(self, replica: str, rows: Sequence[ServedModelRow]) -> None:
        self._check()
        self.rows[replica] = list(rows)

    async def live(self, span_s: float) -> list[ServedModelRow]:
        self.reads += 1
        await asyncio.sleep(0)
        self._check()
        return [row for rows in self.rows.values() for row in rows]

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the database is away")


def _roster(store: Rows, *models: FakeModel) -> tuple[Shelf, Roster]:
    shelf = Shelf(*models)
    roster = Roster(shelf.registry, store, SPAN_S)
    for engine in shelf.engines.values():
        engine.on_changed = roster.publish_soon
    return shelf, roster


def _announced(roster: Roster) -> bool:
    """A call, since mypy takes a member that was read once for unchanged."""
    return roster.announced


async def _until_announced(roster: Roster) -> None:
    async with asyncio.timeout(20):
        while not roster.announced:
            await asyncio.sleep(0.005)


async def test_a_model_announced_since_the_last_look_is_found() -> None:
    store = Rows()
    _, here = _roster(store, FakeModel("alpha"))
    shelf, there = _roster(store, FakeModel("beta"))
    assert await here.find("beta") is None
    shelf.registry.start()
    running = asyncio.create_task(there.run())
    await _until_announced(there)
    held = await here.find("beta")
    assert held is not None
    assert held.card is not None
    assert held.card.generator.id == "beta"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await shelf.registry.close(0)


async def test_facts_that_were_not_known_at_the_last_look_are_looked_up() -> None:
    store = Rows()
    _, here = _roster(store, FakeModel("alpha"))
    shelf, there = _roster(store, FakeModel("beta"))
    await there._publish()
    seen = await here.find("beta")
    assert seen is not None
    assert seen.card is None
    shelf.registry.start()
    await shelf.engines["beta"].known()
    await there._publish()
    found = await here.find("beta")
    assert found is not None
    assert found.card is not None
    await shelf.registry.close(0)


async def test_models_are_announced_once_they_are_loaded_and_published() -> None:
    store, model = Rows(), FakeModel("alpha")
    shelf, roster = _roster(store, model)
    model.gate.clear()
    shelf.registry.start()
    await roster._publish()
    assert not _announced(roster)  # other replicas know the name, but no facts
    model.gate.set()
    await shelf.engines["alpha"].known()
    assert not _announced(roster)
    store.down = True
    with pytest.raises(StoreUnavailable):
        await roster._publish()
    assert not _announced(roster)
    store.down = False
    await roster._publish()
    assert _announced(roster)
    assert store.rows[roster.replica][0].card
    await shelf.registry.close(0)


async def test_a_model_that_cannot_be_loaded_here_waits_for_a_replica_that_has_it() -> None:
    async def find(_: str) -> None:
        return None

    store = Rows()
    here, roster = _roster(store, FakeModel("alpha", problems=[broken()]))
    there, other = _roster(store, FakeModel("alpha"))
    directory = ModelDirectory[object](here.registry, find, roster)
    directory.fill({"alpha": "here"}, lambda engine: engine)
    here.registry.start()
    with pytest.raises(ModelLoadFailed):
        await directory.named("alpha")
    await other._publish()  # it loads, so that nothing is known of it yet
    with pytest.raises(ModelLoadFailed):
        await directory.named("alpha")
    there.registry.start()
    await there.engines["alpha"].known()
    await other._publish()
    found = await directory.named("alpha")
    assert isinstance(found, ElsewhereEngine)
    assert found.generator.id == "alpha"
    await there.registry.close(0)
    await here.registry.close(0)


async def test_unknown_names_share_looks() -> None:
    store = Rows()
    _, roster = _roster(store, FakeModel("alpha"))
    assert await asyncio.gather(*(roster.find(f"name-{number}") for number in range(200))) == [None] * 200
    assert store.reads == 1
    await asyncio.gather(*(roster.find(f"name-{number}") for number in range(200)))
    assert store.reads == 2


async def test_a_look_since_a_moment_serves_all_names_of_a_request() -> None:
    store = Rows()
    _, roster = _roster(store, FakeModel("alpha"))
    since = time.monotonic()
    for number in range(50):
        assert await roster.find(f"name-{number}", since) is None
    assert store.reads == 1


async def test_a_look_that_is_cancelled_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Rows()
    _, roster = _roster(store, FakeModel("alpha"))
    store.rows["other"] = [ServedModelRow("other", "beta", "waiting", "")]
    live, gate = store.live, asyncio.Event()

    async def slow(span_s: float) -> list[ServedModelRow]:
        found = await live(span_s)
        await gate.wait()
        return found

    monkeypatch.setattr(store, "live", slow)
    gone, stays = (asyncio.create_task(roster.find("beta")) for _ in range(2))
    while not store.reads:
        await asyncio.sleep(0.005)
    gone.cancel()
    gate.set()
    assert await stays is not None


async def test_an_unavailable_store_is_an_error_of_all_who_share_the_look() -> None:
    store = Rows()
    _, roster = _roster(store, FakeModel("alpha"))
    store.down = True
    found = await asyncio.gather(*(roster.find("beta") for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in found} == {StoreUnavailable}
    assert store.reads == 1
    store.down = False
    row = ServedModelRow("other", "beta", "waiting", "")
    store.rows["other"] = [row, dataclasses.replace(row, model="gamma")]
    assert set((await roster.find("beta") and roster.elsewhere) or {}) == {"beta", "gamma"}


async def test_a_card_with_a_number_that_is_not_finite_is_refused() -> None:
    store = Rows()
    _, here = _roster(store, FakeModel("alpha"))
    shelf, there = _roster(store, FakeModel("beta"))
    shelf.registry.start()
    await shelf.engines["beta"].known()
    await there._publish()
    (row,) = store.rows[there.replica]
    head, key, rest = row.card.partition('"guidance_scale":')
    broken = f"{head}{key}NaN,{rest.partition(',')[2]}"
    assert "NaN" in broken.replace(row.card, "")
    store.rows[there.replica] = [dataclasses.replace(row, card=broken)]
    found = await here.find("beta")
    assert found is not None
    assert found.card is None
    await shelf.registry.close(0)


async def test_a_replica_hears_of_models_that_another_one_announces_and_withdraws() -> None:
    """No request looks: those of models that are known do not."""
    store, notifier = Rows(), Notifier()
    _, here = _roster(store, FakeModel("alpha"))
    shelf, there = _roster(store, FakeModel("beta"))
    following = asyncio.create_task(here.follow(partial(notifier.subscribe, "models")))
    await asyncio.sleep(0)
    shelf.registry.start()
    running = asyncio.create_task(there.run())
    await _until_announced(there)

    async def told(names: set[str]) -> None:
        notifier.notify("models")
        async with asyncio.timeout(20):
            while here.elsewhere.keys() != names:
                await asyncio.sleep(0.005)

    await told({"beta"})
    store.down = True
    notifier.notify("models")
    await asyncio.sleep(0.3)  # a look that fails ends nothing
    assert here.elsewhere.keys() == {"beta"}
    store.down = False
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await told(set())
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await shelf.registry.close(0)
