"""What every test may use."""

from __future__ import annotations

import gc
import random
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from app.domain import SHORT_SEED_LIMIT
from tests.servers import S3, PostgreSQL, running_postgresql, running_s3

# A busy machine is no reason to fail: nothing here asserts on a clock.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

FILE_MARKS = re.compile(r"^pytestmark = (\[[^\]]*\]|.*)", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a file, without importing it, if `-m "not x and not y"` leaves out all of its tests."""
    terms = config.getoption("markexpr").split(" and ")
    if collection_path.suffix != ".py" or not all(re.fullmatch(r"not \w+", term) for term in terms):
        return None
    declared = FILE_MARKS.search(collection_path.read_text("utf-8"))
    marks = re.findall(r"pytest\.mark\.(\w+)", declared[1]) if declared else []
    return True if {term.removeprefix("not ") for term in terms} & set(marks) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave modules and tests out of garbage collection: a look at all of them takes a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _drawn_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the seeds that the service draws depend on the test alone.

    A test cannot fail in some runs only, by an image that is rare.
    """
    drawn = random.Random(request.node.nodeid)
    monkeypatch.setattr("app.service.generations.spec.drawn_seed", lambda: drawn.randrange(SHORT_SEED_LIMIT))


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
