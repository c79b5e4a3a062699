"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import S3, PostgreSQL, running_postgresql, running_s3

# A busy machine is no reason to fail: nothing here asserts on a clock.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for tests that leave it running."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A server for tests that leave it running."""
    with running_s3() as server:
        yield server
