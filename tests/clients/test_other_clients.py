"""LiteLLM and LangChain as they come from PyPI. They need a Python of their own, since they bring much along."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.api.kit import House
from tests.clients import other_clients

PYTHON = "FRONTRUNNER_TEST_CLIENTS"
"""Names an interpreter with litellm, langchain-openai and langchain-community."""


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no Python with litellm and LangChain")
def test_their_calls_work(house: House, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    ran = subprocess.run(
        [os.environ[PYTHON], other_clients.__file__, house.url, tmp_path / "red.png"],
        env={"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert "all calls worked" in ran.stdout, ran.stderr[-3000:]
