from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.kit import House, running


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One service for all tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("house"), max_body_mib=2, max_image_pixels=250_000) as it:
        yield it


@pytest.fixture
def served_afterwards(house: House) -> Iterator[None]:
    """Whatever a test sent, the next request is served."""
    yield
    assert house.post(json={"prompt": "x", "n_candidates": 1, "steps": 1}).status_code == 200
