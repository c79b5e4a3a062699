"""Pages of generations: order, filters, owners, and what happens to the list meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.domain import Generation, Status
from app.stores.generations import SqlGenerationStore
from app.stores.generations.queries import page
from app.stores.protocols import ListQuery, PageMark
from tests.unit.store_kit import MINE, generation, opened

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def owned(name: str, created: float, status: Status = Status.SUCCEEDED, owner: str = "me") -> Generation:
    made = generation(name, status, created)
    return replace(made, spec=replace(made.spec, owner=owner))


def mark(of: Generation) -> PageMark:
    return PageMark(of.created, of.id)


async def names(
    store: SqlGenerationStore, query: ListQuery, after: PageMark | None = None, limit: int = 9
) -> list[str]:
    return [found.id for found in await store.find(query, after, limit)]


async def test_the_newest_of_the_owner_come_first(records: SqlGenerationStore) -> None:
    for name, created in (("gen_b", 2.0), ("gen_a", 1.0), ("gen_d", 2.0), ("gen_c", 3.1)):
        await records.create(owned(name, created), [], None)
    await records.create(owned("gen_x", 9.0, owner="others"), [], None)
    assert await names(records, ListQuery("me")) == ["gen_c", "gen_d", "gen_b", "gen_a"]
    assert await names(records, ListQuery("me"), PageMark(2.0, "gen_d")) == ["gen_b", "gen_a"]
    assert await names(records, ListQuery("another")) == []


async def test_filters(records: SqlGenerationStore) -> None:
    for created, status in enumerate(Status):
        await records.create(owned(f"gen_{created}", float(created), status), [], MINE)
    assert await names(records, ListQuery("me", (Status.RUNNING, Status.FAILED))) == ["gen_3", "gen_1"]
    assert await names(records, ListQuery("me", since=1.0, before=3.0)) == ["gen_2", "gen_1"]


async def test_pages_stay_when_generations_come_and_go(records: SqlGenerationStore) -> None:
    made = [owned(f"gen_{i}", float(i // 2)) for i in range(6)]
    for one in made:
        await records.create(one, [], None)
    first = await records.find(ListQuery("me"), None, 2)
    await records.create(owned("gen_new", 99.0), [], None)
    assert await records.delete(first[-1].id)
    rest = await names(records, ListQuery("me"), mark(first[-1]))
    assert [one.id for one in first] + rest == [one.id for one in reversed(made)]


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.floats(0, 2e9, allow_nan=False) | st.sampled_from([0.1, 1.7e9 + 0.1]), max_size=12),
    size=st.integers(1, 5),
)
async def test_pages_hold_everything_once(times: list[float], size: int) -> None:
    async with opened("sqlite://") as store:
        for i, created in enumerate(times):
            await store.create(owned(f"gen_{i:02}", created), [], None)
        found: list[Generation] = []
        while part := await store.find(ListQuery("me"), mark(found[-1]) if found else None, size):
            found += part
        assert [(one.created, one.id) for one in found] == sorted(
            ((created, f"gen_{i:02}") for i, created in enumerate(times)), reverse=True
        )


async def test_a_page_is_read_from_an_index() -> None:
    async with opened("sqlite://") as store:
        for query in (ListQuery("me"), ListQuery("me", (Status.RUNNING,))):
            statement = page(query, PageMark(1.0, "gen_a"), 5).compile(compile_kwargs={"literal_binds": True})
            explain = text(f"EXPLAIN QUERY PLAN {statement}")
            plan = await store.connections.read(lambda c, explain=explain: " ".join(map(str, c.execute(explain))))  # type: ignore[misc]
            assert "generations_by_owner" in plan
            assert "TEMP B-TREE" not in plan
