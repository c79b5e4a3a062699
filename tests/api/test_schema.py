"""The OpenAPI document: true to what is served (schemathesis), complete, and with examples that work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.api.problems import MEDIA_TYPE
from tests.api.kit import House, running


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service whose largest request is soon done."""
    with running(tmp_path_factory.mktemp("small"), max_candidates=16, max_steps=20, max_body_mib=2) as it:
        yield it


@pytest.mark.timeout(180)
def test_schemathesis_finds_nothing(small: House, tmp_path: Path) -> None:
    """All phases, seeded and bounded.

    One check is left out: what a schema cannot say (n <= n_candidates, the samplers of the loaded model, that a text
    is an image) makes bodies that fit the schema and are rightly refused.
    """
    found = subprocess.run(
        [
            Path(sys.executable).parent / "st", "run", f"{small.url}/openapi.json", "-n", "8",
            "--generation-deterministic", "--exclude-checks",
            "positive_data_acceptance", "--request-timeout", "20", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_error_has_its_form_and_an_example(house: House) -> None:
    document = house.client.get("/openapi.json").json()
    assert {"Problem", "GenerationOut", "ErrorMember"} <= set(document["components"]["schemas"])
    for path, method, operation in _operations(document):
        assert operation["summary"], (method, path)
        for status, answer in operation["responses"].items():
            if status >= "400":
                (media_type,) = answer["content"]
                assert media_type == MEDIA_TYPE, (method, path, status)
                assert answer["content"][media_type]["example"]["status"] == int(status)


def test_the_examples_work(small: House) -> None:
    document = small.client.get("/openapi.json").json()
    tried, made = 0, small.made(n_candidates=16)["id"]
    for path, method, operation in _operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [e["value"] for e in content.get("examples", {}).values()]
        for example in examples + ([content["example"]] if "example" in content else []):
            answer = small.client.request(method, path.format(generation_id=made, profile="mine"), json=example)
            assert answer.status_code == 200, answer.text
            tried += 1
    assert tried >= 6


def test_the_pages_are_there(house: House) -> None:
    assert house.client.get("/docs").status_code == 200
