"""Other local users read nothing: folders are 0700 and files 0600, also those that an older release has made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.stores import privacy
from app.stores.blobs import ObjectBlobStore
from app.stores.generations import SqlGenerationStore
from tests.system.replicas import asked, replicas

DATABASE = ("frontrunner.db", "frontrunner.db-wal", "frontrunner.db-shm")


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The usual one, by which others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _open(folder: Path) -> dict[str, str]:
    """What in a folder, itself too, is not as it should be."""
    wanted = {path: 0o700 if path.is_dir() else 0o600 for path in (folder, *folder.rglob("*"))}
    return {str(path): oct(_mode(path)) for path, mode in wanted.items() if _mode(path) != mode}


def _of_an_older_release(folder: Path) -> None:
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    folder.chmod(0o755)


def test_what_a_server_makes_is_for_its_user_alone_and_so_is_what_it_finds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        with replicas(tmp_path, 1, 0.0) as (replica,):
            made = httpx.post(f"{replica.url}/v1/generations", json=asked(7), timeout=30)
            assert made.status_code == 200
            assert {path.name for path in data.iterdir()} >= {"blobs", *DATABASE}
            assert _open(data) == {}
        _of_an_older_release(data)


@pytest.mark.anyio
async def test_stores_outside_the_data_folder_are_closed_too(tmp_path: Path) -> None:
    files, base = tmp_path / "files", tmp_path / "base"
    base.mkdir(mode=0o755)
    (files / "generations" / "gen_a").mkdir(parents=True)
    (files / "generations" / "gen_a" / "0.png").write_bytes(b"x")
    (files / "mine.txt").write_text("another's, as far as the service knows")
    (base / "frontrunner.db").touch()
    ObjectBlobStore.open(files.as_uri())
    store = await SqlGenerationStore.open(f"sqlite:///{base}/frontrunner.db")
    assert [_mode(base / name) for name in DATABASE] == [0o600] * 3
    await store.close()
    assert (_mode(base), _mode(files), _mode(files / "mine.txt")) == (0o755, 0o700, 0o644)
    assert _open(files / "generations") == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_owns_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "generations").mkdir()
    for path in (tmp_path / "generations", tmp_path):
        os.chown(path, 65_534, -1)
        path.chmod(0o775)
    (tmp_path / "generations" / "link").symlink_to(tmp_path)
    privacy.private_folder(tmp_path, "generations")
    assert _mode(tmp_path) == _mode(tmp_path / "generations") == 0o775
