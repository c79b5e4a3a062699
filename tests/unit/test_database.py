"""Records over SQLite and PostgreSQL: round trips, gapless logs, the queue, keys, and a store that is out of reach."""

from __future__ import annotations

import asyncio
import itertools
import math
import resource
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pydantic_core
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from app.domain import (
    Candidate,
    Checkpoint,
    EventKind,
    Failure,
    Generation,
    GenerationSpec,
    Negative,
    Notice,
    Ranking,
    Score,
    Status,
    Timings,
    Work,
)
from app.errors import StoreUnavailable
from app.stores import schema
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claimed, NewEvent
from tests.unit.store_kit import MINE, STEP, generation, opened

pytestmark = pytest.mark.slow


@pytest.mark.anyio
async def test_a_new_generation_is_found_with_its_first_lines(records: SqlGenerationStore) -> None:
    await records.create(generation(), [NewEvent(EventKind.QUEUED, {}), STEP], MINE)
    assert await records.get("gen_a") == generation()
    assert await records.get("gen_b") is None
    first, second = await records.events("gen_a", 0)
    assert (first.seq, first.kind, first.data) == (1, EventKind.QUEUED, {})
    assert (second.seq, second.kind, second.data) == (2, EventKind.STEP, STEP.data)
    assert await records.events("gen_b", 0) == []


@pytest.mark.anyio
async def test_saving_replaces_the_record_and_goes_on_with_the_log(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], MINE)
    done = replace(generation(status=Status.SUCCEEDED), finished=120.25, margin=0.1)
    assert await records.save(done, [STEP, NewEvent(EventKind.SUCCEEDED, {})], MINE)
    assert await records.get("gen_a") == done
    assert [(e.seq, e.kind.is_final) for e in await records.events("gen_a", 1)] == [(2, False), (3, True)]


@pytest.mark.anyio
async def test_appending_leaves_the_record_alone(records: SqlGenerationStore) -> None:
    await records.create(generation(), [], MINE)
    assert await records.append("gen_a", [STEP] * 3, MINE)
    assert await records.append("gen_a", [], MINE)
    assert await records.get("gen_a") == generation()
    assert [e.seq for e in await records.events("gen_a", 1, limit=1)] == [2]


@pytest.mark.anyio
async def test_what_was_forgotten_is_not_written_again(records: SqlGenerationStore) -> None:
    await records.create(generation(), [STEP], MINE)
    assert await records.delete("gen_a")
    assert not await records.delete("gen_a")
    assert not await records.save(generation(), [STEP], MINE)
    assert not await records.append("gen_a", [STEP], MINE)
    assert await records.get("gen_a") is None
    assert await records.events("gen_a", 0) == []


@pytest.mark.anyio
async def test_expired_are_old_and_final(records: SqlGenerationStore) -> None:
    for age, status in enumerate(Status):
        await records.create(generation(f"gen_{status}", status, created=10 - age), [], MINE)
    assert await records.list_expired(9) == ["gen_cancelled", "gen_failed", "gen_succeeded"]
    assert await records.list_expired(7, limit=1) == ["gen_cancelled"]


@pytest.mark.anyio
async def test_a_number_json_cannot_say_is_null_in_the_log(records: SqlGenerationStore) -> None:
    await records.create(generation(), [NewEvent(EventKind.CANDIDATE, {"score": math.nan, "x": (1, 2)})], MINE)
    assert (await records.events("gen_a", 0))[0].data == {"score": None, "x": [1, 2]}


@pytest.mark.anyio
async def test_numbers_have_no_gaps_when_two_stores_append_at_once(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        await one.create(generation(), [], MINE)
        await asyncio.gather(*(s.append("gen_a", [STEP] * 3, MINE) for s in (one, two) * 25))
        assert [e.seq for e in await two.events("gen_a", 0)] == list(range(1, 151))


WRITER = """
import asyncio, sys
from app.domain import EventKind
from app.stores.protocols import NewEvent
from app.stores.generations import SqlGenerationStore
from tests.unit.store_kit import MINE, generation

async def main(url, name):
    store = await SqlGenerationStore.open(url)
    await store.create(generation(name), [], MINE)
    while await store.get("gen_shared") is None:
        await asyncio.sleep(0.01)
    for _ in range(40):
        await store.append("gen_shared", [NewEvent(EventKind.STEP, {})] * 2, MINE)
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.anyio
async def test_processes_share_a_file_that_none_of_them_has_made_yet(url: str) -> None:
    names = ["gen_1", "gen_2", "gen_3"]
    started = [await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, url, name) for name in names]
    async with opened(url) as store:
        await store.create(generation("gen_shared"), [], MINE)
        assert [await process.wait() for process in started] == [0, 0, 0]
        assert all([await store.get(name) for name in names])
        assert [e.seq for e in await store.events("gen_shared", 0)] == list(range(1, 241))


@pytest.mark.anyio
async def test_everything_is_there_after_reopening(url: str) -> None:
    async with opened(url) as store:
        await store.create(generation(), [STEP], MINE)
    async with opened(url) as store:
        assert await store.get("gen_a") == generation()
        await store.append("gen_a", [STEP], MINE)
        assert [e.seq for e in await store.events("gen_a", 0)] == [1, 2]


@pytest.mark.anyio
async def test_a_cancelled_write_leaves_the_store_usable(file_url: str) -> None:
    async with opened(file_url) as store:
        await store.create(generation(), [], MINE)
        for turns in range(30):
            write = asyncio.create_task(store.append("gen_a", [STEP] * 2, MINE))
            for _ in range(turns):
                await asyncio.sleep(0)
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
        assert await asyncio.wait_for(store.append("gen_a", [STEP], MINE), 30)
        seqs = [e.seq for e in await store.events("gen_a", 0)]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) % 2 == 1


@pytest.mark.anyio
async def test_a_failing_write_leaves_nothing_behind(url: str) -> None:
    async with opened(url) as store:
        await store.create(generation(), [], MINE)
        with pytest.raises(StoreUnavailable):
            await store.create(generation(), [STEP], MINE)
        assert await store.events("gen_a", 0) == []


@pytest.mark.anyio
async def test_a_database_of_a_later_release_is_refused(file_url: str) -> None:
    url = file_url
    async with opened(url) as store:
        await store.create(generation(), [], MINE)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    with pytest.raises(StoreUnavailable, match="later release"):
        await SqlGenerationStore.open(url)


@pytest.mark.anyio
async def test_a_file_that_cannot_be_opened_is_unavailable_and_not_named(tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_bytes(b"not a database" * 1000)
    for name in ("missing/records.db", "junk.db"):
        with pytest.raises(StoreUnavailable) as caught:
            await SqlGenerationStore.open(f"sqlite:///{tmp_path}/{name}")
        assert str(tmp_path) not in caught.value.detail


@pytest.mark.anyio
async def test_a_full_disk_is_unavailable_and_then_passes(file_url: str) -> None:
    async with opened(file_url) as store:
        await store.create(generation(), [STEP], MINE)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(StoreUnavailable):
                await store.append("gen_a", [NewEvent(EventKind.PREVIEW, {"image": "x" * 100_000})], MINE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await store.append("gen_a", [STEP], MINE)
        assert [e.seq for e in await store.events("gen_a", 0)] == [1, 2]


@pytest.mark.anyio
async def test_ping_tells_of_writes_that_fail_until_they_do_not(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.stores.instrumentation.HOLD_S", 0.0)
    async with opened(file_url) as store:
        before = await store.database_id()
        await store.create(generation(), [], MINE)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            await store.ping()
            for attempt in (store.append("gen_a", [STEP], MINE), store.ping(), store.ping()):
                with pytest.raises(StoreUnavailable):
                    await attempt
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await store.ping()
        assert await store.database_id() == before
        with pytest.raises(StoreUnavailable):
            await store.create(generation(), [], MINE)
        monkeypatch.setattr("app.stores.instrumentation.HOLD_S", 1e9)
        await store.ping()  # a statement that is refused says nothing of the disk


@pytest.mark.anyio
async def test_a_writer_that_waits_too_long_is_unavailable(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = file_url
    monkeypatch.setattr("app.stores.connections.pools.BUSY_TIMEOUT_S", 0.05)
    async with opened(url) as store:
        await store.create(generation(), [STEP], MINE)
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await store.append("gen_a", [STEP], MINE)
        assert await store.get("gen_a") == generation()
        other.close()
        assert await store.append("gen_a", [STEP], MINE)


@pytest.mark.anyio
async def test_ping_answers_while_the_tables_are_there(file_url: str) -> None:
    url = file_url
    async with opened(url) as store:
        await store.ping()
        other = sqlite3.connect(url.removeprefix("sqlite:///"))
        other.execute("DROP TABLE alembic_version")
        other.close()
        with pytest.raises(StoreUnavailable):
            await store.ping()


@pytest.mark.anyio
async def test_a_database_of_the_first_release_is_brought_up_to_date(file_url: str) -> None:
    with sqlite3.connect(file_url.removeprefix("sqlite:///")) as old:
        old.executescript(FIRST_RELEASE)
        old.execute(
            "INSERT INTO generations VALUES ('gen_a', '', 'running', 1, NULL, 1.7e9, 1, ?)",
            (pydantic_core.to_json(generation()).decode(),),
        )
        old.execute("INSERT INTO events VALUES ('gen_a', 1, 'queued', '{}', 1)")
    old.close()
    async with opened(file_url) as store:
        first = generation()
        ranking = first.spec.ranking.with_negative_prompt(first.spec.negative_prompt)
        upgraded = replace(first, spec=replace(first.spec, ranking=ranking))
        assert await store.claim("pictogram", "pictogram", 2, MINE) == Claimed(upgraded, 1, 1)
        assert await store.append("gen_a", [STEP], MINE)
        assert [e.seq for e in await store.events("gen_a", 0)] == [1, 2]


@pytest.mark.anyio
async def test_migrations_make_the_tables_that_the_code_knows(any_url: str) -> None:
    async with opened(any_url) as store:
        found = await store.connections.read(
            lambda connection: {
                name: {c["name"] for c in inspect(connection).get_columns(name)} for name in schema.metadata.tables
            }
        )
    assert found == {name: set(table.columns.keys()) for name, table in schema.metadata.tables.items()}


FIRST_RELEASE = """
CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO schema_version VALUES (1);
CREATE TABLE generations (id VARCHAR(64) NOT NULL PRIMARY KEY, owner VARCHAR(200) NOT NULL, status VARCHAR(16) NOT NULL,
  created DOUBLE NOT NULL, finished DOUBLE, lease_until DOUBLE, last_seq INTEGER NOT NULL, record TEXT NOT NULL);
CREATE INDEX generations_by_lease ON generations (status, lease_until);
CREATE INDEX generations_by_age ON generations (status, created);
CREATE TABLE events (generation_id VARCHAR(64) NOT NULL, seq INTEGER NOT NULL, kind VARCHAR(16) NOT NULL,
  data TEXT NOT NULL, created DOUBLE NOT NULL, PRIMARY KEY (generation_id, seq),
  FOREIGN KEY(generation_id) REFERENCES generations (id) ON DELETE CASCADE);
"""

number = st.floats(allow_nan=False)
text = st.text(st.characters(codec="utf-8"), max_size=20)
score = st.builds(Score, number, number, number, st.lists(number, max_size=3).map(tuple))
candidate = st.builds(
    Candidate,
    index=st.integers(0, 63),
    seed=st.integers(0, 2**64 - 1),
    score=st.none() | score,
    rank=st.none() | st.integers(1, 64),
    pruned_at_step=st.none() | st.integers(1, 150),
    score_is_preview=st.booleans(),
    softmax=st.none() | number,
    z_score=st.none() | number,
)
ranking = st.builds(
    Ranking, number, st.lists(st.builds(Negative, text, number), max_size=3).map(tuple), st.none() | number, number
)
spec = st.builds(
    GenerationSpec,
    id=st.just("gen_a"),
    prompt=text,
    negative_prompt=text,
    n_candidates=st.integers(1, 64),
    n=st.integers(1, 64),
    width=st.integers(8, 4096),
    height=st.integers(8, 4096),
    steps=st.integers(1, 150),
    guidance_scale=number,
    sampler=text,
    seed=st.integers(0, 2**64 - 1),
    ranking=ranking,
    checkpoints=st.lists(st.builds(Checkpoint, st.integers(1), st.none() | st.integers(1)), max_size=2).map(tuple),
    deterministic=st.booleans(),
    owner=text,
)
any_generation = st.builds(
    Generation,
    spec=spec,
    status=st.sampled_from(Status),
    created=number,
    model=text,
    scorer=text,
    started=st.none() | number,
    finished=st.none() | number,
    candidates=st.lists(candidate, max_size=3).map(tuple),
    margin=st.none() | number,
    low_confidence=st.booleans(),
    warnings=st.lists(
        st.builds(Notice, text, text, st.dictionaries(text, st.integers() | text | st.none(), max_size=2)), max_size=2
    ).map(tuple),
    timings=st.builds(Timings, number, number, number, number, number, number),
    work=st.builds(Work, st.integers(0), st.integers(0), st.integers(0), st.integers(0)),
    failure=st.none() | st.builds(Failure, text, text),
)


def test_a_record_comes_back_exactly() -> None:
    with asyncio.Runner() as runner:
        store = runner.run(SqlGenerationStore.open("sqlite://"))
        names = (f"gen_{number}" for number in itertools.count())

        async def there_and_back(original: Generation) -> Generation | None:
            await store.create(original, [], MINE)
            return await store.get(original.id)

        @settings(max_examples=100, deadline=None)
        @given(any_generation)
        def comes_back(original: Generation) -> None:
            original = replace(original, spec=replace(original.spec, id=next(names)))
            assert runner.run(there_and_back(original)) == original

        try:
            comes_back()
        finally:
            runner.run(store.close())


@pytest.mark.anyio
async def test_a_score_that_is_not_a_number_comes_back(records: SqlGenerationStore) -> None:
    odd = replace(generation(), candidates=(Candidate(0, 7, Score(math.nan, math.inf, 0.1)),))
    await records.create(odd, [], MINE)
    found = await records.get("gen_a")
    assert found is not None
    assert found.candidates[0].score is not None
    assert math.isnan(found.candidates[0].score.score)
    assert found.candidates[0].score.similarity == math.inf


@pytest.mark.anyio
async def test_who_comes_after_the_closing_is_told_so(tmp_path: Path) -> None:
    store = await SqlGenerationStore.open(f"sqlite:///{tmp_path}/closed.db")
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("gen_a")
