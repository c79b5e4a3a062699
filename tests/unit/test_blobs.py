"""Blobs over a folder, over memory and over S3: whole or nothing, keys that stay inside, errors without paths."""

from __future__ import annotations

import asyncio
import resource
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import StoreUnavailable
from app.stores.blobs import ObjectBlobStore
from app.stores.protocols import BlobStore
from tests.servers import S3

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs with space"


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "s3":
        server: S3 = request.getfixturevalue("s3")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return ObjectBlobStore.open(f"s3://pictures/{uuid.uuid4().hex}")
    return ObjectBlobStore.open(folder.as_uri() if request.param == "folder" else "memory://")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


async def test_bytes_come_back_and_are_overwritten(blobs: BlobStore) -> None:
    await blobs.put("generations/gen_a/latents.npz", b"one")
    await blobs.put("generations/gen_a/latents.npz", b"")
    await blobs.put("generations/gen_a/0.png", bytes(range(256)) * 10_000)
    assert await blobs.get("generations/gen_a/latents.npz") == b""
    assert await blobs.get("generations/gen_a/0.png") == bytes(range(256)) * 10_000


async def test_a_missing_key_is_none(blobs: BlobStore) -> None:
    await blobs.put("generations/gen_a/0.png", b"x")
    assert await blobs.get("generations/gen_b/0.png") is None
    assert await blobs.get("generations/gen_a") is None


async def test_deleting_a_prefix_is_complete_and_takes_nothing_else(blobs: BlobStore) -> None:
    for key in ("g/1/a", "g/1/b/c", "g/10/a", "g/1x", "h/1/a"):
        await blobs.put(key, b"x")
    await blobs.delete_prefix("g/1/")
    await blobs.delete_prefix("g/1/")
    await blobs.delete_prefix("nothing/here/")
    kept = {key for key in ("g/1/a", "g/1/b/c", "g/10/a", "g/1x", "h/1/a") if await blobs.get(key)}
    assert kept == {"g/10/a", "g/1x", "h/1/a"}
    await blobs.delete_prefix("g/1")
    assert [await blobs.get(key) for key in ("g/10/a", "g/1x", "h/1/a")] == [None, None, b"x"]


async def test_a_deleted_folder_leaves_nothing_on_disk(folder: Path) -> None:
    blobs = ObjectBlobStore.open(folder.as_uri())
    for index in range(300):
        await blobs.put(f"generations/gen_a/{index}.png", b"x")
    await blobs.delete_prefix("generations/gen_a/")
    assert files(folder) == []


async def test_two_deletes_at_once_both_succeed(folder: Path) -> None:
    blobs = ObjectBlobStore.open(folder.as_uri())
    for index in range(50):
        await blobs.put(f"g/a/{index}", b"x")
    await asyncio.gather(*(blobs.delete_prefix("g/a/") for _ in range(4)))
    assert files(folder) == []


async def test_what_a_killed_writer_left_is_tidied_up(folder: Path) -> None:
    blobs = ObjectBlobStore.open(folder.as_uri())
    await blobs.put("g/a/0.png", b"x")
    (folder / "g/a/1.png#1").write_bytes(b"half of it")
    await blobs.delete_unfinished("g/a/")
    await blobs.delete_unfinished("g/b/")
    assert files(folder) == ["g", "g/a", "g/a/0.png"]
    (folder / "g/a/1.png#1").write_bytes(b"half of it")
    await blobs.delete_prefix("g/a/")
    assert files(folder) == ["g"]


async def test_readers_see_all_or_nothing(blobs: BlobStore) -> None:
    whole = {bytes([n]) * 500_000 for n in range(8)}

    async def read() -> bytes | None:
        await asyncio.sleep(0)
        return await blobs.get("g/a")

    seen = await asyncio.gather(*(step for data in whole for step in (blobs.put("g/a", data), read())))
    assert set(seen) <= whole | {None}
    assert await blobs.get("g/a") in whole


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "..", "a/../b", "../a", "a//b", "a/", "a/.", "./a", "a\\b", "a b", "ä", "a\n", "a\0"],
)
async def test_a_key_that_might_leave_the_store_is_refused(blobs: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="invalid key"):
        await blobs.get(key)
    with pytest.raises(ValueError, match="invalid key"):
        await blobs.put(key, b"x")


@pytest.mark.parametrize("prefix", ["", "/", "../", "a//", "a/../"])
async def test_a_prefix_that_might_leave_the_store_is_refused(blobs: BlobStore, prefix: str) -> None:
    with pytest.raises(ValueError, match="invalid key"):
        await blobs.delete_prefix(prefix)


@given(st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True), min_size=1, max_size=4))
def test_any_other_key_is_kept_under_its_own_name(segments: list[str]) -> None:
    blobs = ObjectBlobStore.open("memory://")
    key = "/".join(segments)
    if {".", ".."} & set(segments):
        with pytest.raises(ValueError, match="invalid key"):
            asyncio.run(blobs.put(key, b"x"))
    else:
        asyncio.run(blobs.put(key, b"x"))
        assert asyncio.run(blobs.get(key)) == b"x"


async def test_what_was_written_is_there_after_reopening(folder: Path) -> None:
    await ObjectBlobStore.open(folder.as_uri()).put("g/a", b"x")
    assert await ObjectBlobStore.open(folder.as_uri()).get("g/a") == b"x"
    assert files(folder) == ["g", "g/a"]


async def test_a_full_disk_is_unavailable_and_leaves_nothing(folder: Path) -> None:
    blobs = ObjectBlobStore.open(folder.as_uri())
    await blobs.put("g/a", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await blobs.put("g/a", b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(folder) not in caught.value.detail
    assert await blobs.get("g/a") == b"before"
    assert files(folder) == ["g", "g/a"]


async def test_a_folder_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable):
        ObjectBlobStore.open((tmp_path / "file" / "blobs").as_uri())
    blobs = ObjectBlobStore.open(tmp_path.as_uri())
    for attempt in (blobs.put("file/a", b"x"), blobs.get("file/a")):
        with pytest.raises(StoreUnavailable) as caught:
            await attempt
        assert str(tmp_path) not in caught.value.detail


async def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(StoreUnavailable):
        ObjectBlobStore.open("s4://bucket")
