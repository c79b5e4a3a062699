"""The OpenAPI document: true to what is served (schemathesis), complete, and with examples that work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.api import docs
from app.api.answers import GenerationOut, RankOut
from app.api.openai import ImagesOut
from app.api.problems import MEDIA_TYPE
from tests.api.kit import House, running

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize(
    ("route", "status", "kind"),
    [
        ("POST /v1/generations", "200", "application/json"),
        ("POST /v1/generations", "200", "text/event-stream"),
        ("POST /v1/generations", "202", "application/json"),
        ("GET /v1/generations/{generation_id}", "200", "application/json"),
        ("GET /v1/generations/{generation_id}/events", "200", "text/event-stream"),
        ("POST /v1/rank", "200", "application/json"),
        ("POST /v1/images/generations", "200", "application/json"),
        ("POST /v1/images/generations", "200", "text/event-stream"),
        ("GET /v1/models", "200", "application/json"),
    ],
)
def test_answers_have_examples(house: House, route: str, status: str, kind: str) -> None:
    method, path = route.split()
    content = house.client.get("/openapi.json").json()["paths"][path][method.lower()]["responses"][status]["content"]
    assert content[kind]["example"]


@pytest.mark.parametrize(
    ("route", "status", "model"),
    [
        ("POST /v1/generations", "200", GenerationOut),
        ("GET /v1/generations/{generation_id}", "200", GenerationOut),
        ("POST /v1/rank", "200", RankOut),
        ("POST /v1/images/generations", "200", ImagesOut),
    ],
)
def test_examples_are_what_is_answered(route: str, status: str, model: type[BaseModel]) -> None:
    kept = json.loads((Path(docs.__file__).parent / "examples.json").read_text())[route][status]["application/json"]
    assert set(kept) == set(model.model_fields)


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
