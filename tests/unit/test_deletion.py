"""A deleted generation leaves no file, also when one is written during the deletion."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from app.domain import Generation, Ranking, Status
from app.errors import NotFound, StoreUnavailable
from app.service import CandidateArrays, GenerationParams, Limits, RankingService, RerankParams
from app.service.candidates.keys import arrays_key, blob_prefix
from app.service.generations.orphaned_files import LOOK_S, PATIENCE_S, Orphans
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlGenerationStore
from tests.servers import S3
from tests.unit.service_kit import house
from tests.unit.store_kit import MINE, generation, opened

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def _left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "blobs" / "generations").glob("*"))


@pytest.mark.parametrize("moment", ["before the picture is kept", "between files and record"])
async def test_a_picture_made_while_its_generation_is_forgotten_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=4, n=1)
        unreturned = next(c.index for c in (await h.service.get(name)).candidates if c.rank is None)
        if moment == "before the picture is kept":
            put = h.blobs.put

            async def late(key: str, data: bytes) -> None:
                await h.service.delete(name)
                await put(key, data)

            monkeypatch.setattr(h.blobs, "put", late)
            with pytest.raises(NotFound):
                await h.service.image(name, unreturned, "png")
        else:
            delete = h.records.delete

            async def late_delete(generation_id: str) -> bool:
                await h.blobs.put(f"{blob_prefix(name)}{unreturned}.png", b"a prompt is in it")
                return await delete(generation_id)

            monkeypatch.setattr(h.records, "delete", late_delete)
            await h.service.delete(name)
        assert _left(tmp_path) == []


async def test_pictures_asked_for_and_forgotten_at_once_leave_nothing(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        names = [await h.made(n_candidates=4, n=1, steps=1) for _ in range(20)]

        async def asked(name: str, index: int) -> None:
            with suppress(NotFound):
                await h.service.image(name, index, "webp")

        async def forgotten(name: str, turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await h.service.delete(name)

        for turn, name in enumerate(names):
            await asyncio.gather(*(asked(name, index) for index in range(4)), forgotten(name, 5 * turn))
        assert _left(tmp_path) == []


async def test_a_re_ranking_stored_while_its_source_is_forgotten_brings_no_file_of_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as h:
        source = await h.service.get(await h.made(n_candidates=4, n=1))
        engine = h.service._engine
        fields = CandidateArrays(engine, h.blobs)
        dialogue = RankingService(engine, h.records, h.blobs, fields, Limits(), h.service.get)
        reranked = await dialogue.rerank(source, RerankParams(Ranking(), n=4))
        put = h.blobs.put

        async def late(key: str, data: bytes) -> None:
            if key.startswith(blob_prefix(source.id)):
                await h.service.delete(source.id)
            await put(key, data)

        async def made() -> tuple[Generation, Generation]:
            return source, reranked

        monkeypatch.setattr(h.blobs, "put", late)
        with pytest.raises(NotFound):
            await dialogue.save(made)
        assert _left(tmp_path) == []


async def test_a_result_that_could_not_be_recorded_before_it_was_forgotten_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, delay_s=0.02) as h:
        save = h.records.save

        async def fails_once(*given: object) -> bool:
            if given[0].status is not Status.SUCCEEDED:  # type: ignore[attr-defined]
                return await save(*given)  # type: ignore[arg-type]
            monkeypatch.setattr(h.records, "save", save)
            await h.records.delete(given[0].id)  # type: ignore[attr-defined]
            raise StoreUnavailable("no room left")

        monkeypatch.setattr(h.records, "save", fails_once)
        monkeypatch.setattr("app.service.generations.recorder.STORE_RETRY_DELAYS_S", (0.01,))
        queued = await h.service.submit(GenerationParams("x", n_candidates=2, steps=2))
        with pytest.raises(NotFound):
            await h.service.wait(queued.id)
        assert _left(tmp_path) == []


@pytest.fixture(params=["folder", "s3"])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> ObjectBlobStore:
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return ObjectBlobStore.open(f"s3://pictures/{uuid.uuid4().hex}")
    return ObjectBlobStore.open((tmp_path / "blobs").as_uri())


@pytest.fixture
async def records(tmp_path: Path, anyio_backend: str) -> AsyncIterator[SqlGenerationStore]:
    async with opened(f"sqlite:///{tmp_path}/records.db") as store:
        yield store


class Ticks:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _kept(blobs: ObjectBlobStore) -> set[str]:
    names = ("gen_a", "gen_b", "gen_gone", "gen_later", "other")
    return {name for name in names if await blobs.get(arrays_key(name))}


async def test_files_without_a_record_go_after_a_while_and_others_stay(
    records: SqlGenerationStore, blobs: ObjectBlobStore
) -> None:
    ticks = Ticks()
    orphans = Orphans(records, blobs, ticks)
    await records.create(generation("gen_a"), [], MINE)
    for name in ("gen_a", "gen_gone", "gen_later"):
        for key in (arrays_key(name), f"{blob_prefix(name)}0.png"):
            await blobs.put(key, b"x")
    await blobs.put(arrays_key("other"), b"x")
    assert await orphans.sweep() == 0
    await records.create(generation("gen_later"), [], MINE)
    ticks.now = PATIENCE_S - 1
    assert await orphans.sweep() == 0
    assert await _kept(blobs) == {"gen_a", "gen_gone", "gen_later", "other"}
    ticks.now = PATIENCE_S
    assert await orphans.sweep() == 1
    assert await _kept(blobs) == {"gen_a", "gen_later", "other"}
    assert await blobs.get(arrays_key("gen_a")) == b"x"
    await records.delete("gen_later")
    ticks.now += LOOK_S
    assert await orphans.sweep() == 0
    ticks.now += PATIENCE_S
    assert await orphans.sweep() == 1
    assert await _kept(blobs) == {"gen_a", "other"}


async def test_files_of_another_database_are_left_alone(
    tmp_path: Path, records: SqlGenerationStore, blobs: ObjectBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    await records.create(generation("gen_a"), [], MINE)
    await blobs.put(arrays_key("gen_a"), b"x")
    assert await Orphans(records, blobs).sweep() == 0
    async with opened(f"sqlite:///{tmp_path}/another.db") as other:
        await other.create(generation("gen_b"), [], MINE)
        await blobs.put(arrays_key("gen_b"), b"x")
        ticks = Ticks()
        orphans = Orphans(other, blobs, ticks)
        for _ in range(2):
            assert await orphans.sweep() == 0
            ticks.now += LOOK_S
    assert "another database" in caplog.text
    assert await _kept(blobs) == {"gen_a", "gen_b"}


async def test_a_store_full_of_unknown_files_is_not_taken_for_its_own(
    records: SqlGenerationStore, blobs: ObjectBlobStore
) -> None:
    await blobs.put(arrays_key("gen_a"), b"x")
    ticks = Ticks()
    orphans = Orphans(records, blobs, ticks)
    for _ in range(2):
        assert await orphans.sweep() == 0
        ticks.now += LOOK_S
    assert await _kept(blobs) == {"gen_a"}


async def test_a_service_sweeps_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.service.generations.orphaned_files.PATIENCE_S", 0.0)
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=2)
        await h.records.connections.write(lambda connection: connection.execute(text("DELETE FROM generations")))
        other = await h.made(n_candidates=2)
        await h.service.purge_expired(3600)
        assert [path.name for path in _left(tmp_path)] == [other]
        assert name != other
