"""The generated sources of the clients are current."""

from __future__ import annotations

import pytest

from tests.architecture import client_types


def test_python_types() -> None:
    assert client_types.PYTHON.read_text("utf-8") == client_types.python_types(client_types.document()), (
        "run `make docs`"
    )


@pytest.mark.slow
def test_typescript_types() -> None:
    made = client_types.typescript_types(client_types.document())
    if made is None:
        pytest.skip("the packages of clients/typescript are not installed (npm ci --ignore-scripts)")
    assert client_types.TYPESCRIPT.read_text("utf-8") == made, "run `make docs`"


def test_the_synchronous_client() -> None:
    assert client_types.SYNC.read_text("utf-8") == client_types.sync_client(), "run `make docs`"
    assert "async" not in client_types.SYNC.read_text("utf-8").replace("asyncio", "")
