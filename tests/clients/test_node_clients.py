"""Clients of Node as they come from npm: the openai package and Vercel's AI SDK."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.api.kit import House
from tests.clients.node_kit import node

PACKAGES = Path(__file__).parent / "node"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("program", "calls"),
    [
        ("openai.mjs", ["generate", "links", "stream", "edit", "variation", "embeddings", "models", "errors"]),
        ("ai.mjs", ["images", "several", "embeddings", "errors"]),
    ],
)
def test_their_calls_work(program: str, calls: list[str], house: House, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    quiet = {"AI_SDK_LOG_WARNINGS": "false"}
    found = node(
        PACKAGES / program, house.url, tmp_path / "red.png", cwd=tmp_path, packages=PACKAGES, environment=quiet
    )
    assert [line for line in found.splitlines() if line in calls] == calls


@pytest.mark.parametrize("folder", ["clients/typescript", "tests/clients/node", "app/studio"])
def test_lock_files_name_no_registry(folder: str) -> None:
    text = (Path(__file__).parents[2] / folder / "package-lock.json").read_text("utf-8")
    assert '"resolved"' not in text
    assert '"integrity"' in text
