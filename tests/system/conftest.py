"""What the tests of the studio share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.api.kit import House, running

if TYPE_CHECKING:
    from tests.system.studio_kit import Browser


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("studio"), max_candidates=256) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from tests.system.studio_kit import chromium

    with chromium() as found:
        yield found
