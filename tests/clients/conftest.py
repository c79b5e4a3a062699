from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.kit import House, running

SECRET = "whsec_" + "c2VjcmV0LW9mLXR3ZW50eS1mb3VyLWJ5dGVz"


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One service for all tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("house"), webhook_secret=SECRET, webhook_private=True) as it:
        yield it
