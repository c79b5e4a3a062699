"""The OpenAPI document: true to what is served (schemathesis), complete, and with examples that work."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel

from app.api import openapi
from app.api.problems import PROBLEM_MEDIA_TYPE, WEB_UI_PREFIX
from tests.api.kit import House, running

pytestmark = pytest.mark.slow

WITHOUT_NULLS = {"POST /v1/images/generations"}
"""Routes whose responses omit members without a value."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service whose largest request is soon done."""
    with running(tmp_path_factory.mktemp("small"), max_candidates=16, max_steps=20, max_body_mib=2) as it:
        yield it


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_schemathesis_finds_nothing(small: House, tmp_path: Path) -> None:
    """All phases, seeded and bounded.

    One check is left out: what a schema cannot say (n <= n_candidates, the samplers of the loaded model, that a text
    is an image) makes bodies that fit the schema and are rightly refused.
    """
    found = subprocess.run(
        [
            Path(sys.executable).parent / "st", "run", f"{small.url}/openapi.json", "-n", "8",
            "--generation-deterministic", "--exclude-checks",
            "positive_data_acceptance", "--request-timeout", "120", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1100,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_error_has_its_form_and_an_example(house: House) -> None:
    document = house.client.get("/openapi.json").json()
    assert {"Problem", "GenerationResponse", "ErrorMember"} <= set(document["components"]["schemas"])
    for path, method, operation in _operations(document):
        assert operation["summary"], (method, path)
        for status, answer in operation["responses"].items():
            if status >= "400":
                (media_type,) = answer["content"]
                example = answer["content"][media_type]["example"]
                if path.startswith(WEB_UI_PREFIX):
                    assert media_type == "application/json", (method, path, status)
                    assert set(example) == {"error", "detail", "body", "errors"}
                else:
                    assert media_type == PROBLEM_MEDIA_TYPE, (method, path, status)
                    assert example["status"] == int(status)


@pytest.mark.parametrize(
    ("route", "status", "kind"),
    [
        ("POST /v1/generations", "200", "application/json"),
        ("POST /v1/generations", "200", "text/event-stream"),
        ("POST /v1/generations", "202", "application/json"),
        ("GET /v1/generations/{generation_id}", "200", "application/json"),
        ("GET /v1/generations/{generation_id}/events", "200", "text/event-stream"),
        ("POST /v1/generations/{generation_id}/rerank", "200", "application/json"),
        ("POST /v1/generations/{generation_id}/rerank", "201", "application/json"),
        ("POST /v1/generations/{generation_id}/refine", "200", "application/json"),
        ("POST /v1/generations/{generation_id}/refine", "200", "text/event-stream"),
        ("POST /v1/generations/{generation_id}/refine", "202", "application/json"),
        ("POST /v1/taste/{profile}/votes", "200", "application/json"),
        ("GET /v1/taste/{profile}", "200", "application/json"),
        ("PUT /v1/taste/{profile}", "200", "application/json"),
        ("GET /v1/taste/{profile}/export", "200", "application/json"),
        ("POST /v1/rank", "200", "application/json"),
        ("POST /v1/images/generations", "200", "application/json"),
        ("POST /v1/images/generations", "200", "text/event-stream"),
        ("POST /v1/images/edits", "200", "application/json"),
        ("POST /v1/images/edits", "200", "text/event-stream"),
        ("POST /v1/images/variations", "200", "application/json"),
        ("POST /v1/embeddings", "200", "application/json"),
        ("POST /v1/rerank", "200", "application/json"),
        ("GET /v1/models", "200", "application/json"),
    ],
)
def test_answers_have_examples(house: House, route: str, status: str, kind: str) -> None:
    method, path = route.split()
    content = house.client.get("/openapi.json").json()["paths"][path][method.lower()]["responses"][status]["content"]
    assert content[kind]["example"]


def _models(root: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    yield root
    for model in root.__subclasses__():
        yield from _models(model)


def _kept() -> Iterator[tuple[str, str, Any]]:
    """Route, status and JSON example of every answer that has one."""
    kept = json.loads((Path(openapi.__file__).parent / "examples.json").read_text())
    for route, statuses in kept.items():
        for status, kinds in statuses.items():
            if "application/json" in kinds:
                yield route, status, kinds["application/json"]


@pytest.mark.parametrize(("route", "status", "example"), [pytest.param(*k, id=f"{k[0]} {k[1]}") for k in _kept()])
def test_examples_are_what_is_answered(house: House, route: str, status: str, example: Any) -> None:
    method, path = route.split()
    answer = house.client.get("/openapi.json").json()["paths"][path][method.lower()]["responses"][status]
    name = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2].removesuffix("-Output")
    model = {model.__name__: model for model in _models() if model.__module__.startswith("app.")}[name]
    sparse = route in WITHOUT_NULLS
    assert model.model_validate(example).model_dump(mode="json", exclude_none=sparse) == example


def test_the_form_of_a_ranking_works(small: House) -> None:
    content = small.client.get("/openapi.json").json()["paths"]["/v1/rank"]["post"]["requestBody"]["content"]
    example = content["multipart/form-data"]["example"]
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(buffer, "PNG")
    files = [("images", (name, buffer.getvalue())) for name in example.pop("images")]
    data = example | {"ranking": json.dumps(example["ranking"])}
    assert len(small.post("/v1/rank", data=data, files=files).json()["data"]) == 2


def test_the_examples_work(small: House) -> None:
    document = small.client.get("/openapi.json").json()
    tried, made = 0, small.made(n_candidates=16)["id"]
    for path, method, operation in _operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        examples = [e["value"] for e in content.get("examples", {}).values()]
        for example in examples + ([content["example"]] if "example" in content else []):
            body = json.loads(json.dumps(example).replace(openapi.EXAMPLE_GENERATION_ID, made))
            answer = small.client.request(method, path.format(generation_id=made, profile="mine"), json=body)
            assert answer.status_code in {200, 201, 202}, answer.text
            tried += 1
    assert tried >= 11


def test_the_page_of_the_api_names_no_other_host(house: House) -> None:
    page = house.client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert any(address.endswith(".js") for address in loaded)
    for address in loaded:
        assert address.startswith("/"), address
        assert house.client.get(address).status_code == 200, address
