"""Databases for the tests of the stores, and polls of services that share one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.stores.generations import SqlGenerationStore
from tests.servers import PostgreSQL
from tests.unit.store_kit import opened

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.slow)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/records.db"


@pytest.fixture(params=["file", POSTGRESQL])
def url(request: pytest.FixtureRequest, file_url: str) -> str:
    """A database that several stores and processes share."""
    return _url(request, file_url)


@pytest.fixture(params=["file", "memory", POSTGRESQL])
def any_url(request: pytest.FixtureRequest, file_url: str) -> str:
    return _url(request, file_url)


@pytest.fixture
async def records(any_url: str, anyio_backend: str) -> AsyncIterator[SqlGenerationStore]:
    async with opened(any_url) as store:
        yield store


def _url(request: pytest.FixtureRequest, file_url: str) -> str:
    if request.param == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        return server.database()
    return file_url if request.param == "file" else "sqlite://"


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of one process look at the queue and at logs of others often: no test waits for a second to pass."""
    monkeypatch.setattr("app.service.generations.queue_worker.QUEUE_POLL_INTERVAL_S", 0.05)
    monkeypatch.setattr("app.service.generations.recording.log_watcher.POLL_S", 0.05)
