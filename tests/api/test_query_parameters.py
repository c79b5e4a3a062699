"""Query parameters: native routes refuse unknown ones, compatible routes ignore them; a slash at the end of a path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from app.api.routes import health, models, studio
from app.main import _COMPAT
from tests.api.keys_kit import add_key
from tests.api.kit import PROMPT, House, is_problem, running

pytestmark = pytest.mark.slow

FOREIGN = (*_COMPAT, models, health, studio)


@pytest.mark.parametrize(
    ("path", "accepted"),
    [
        ("/v1/generations/{id}/images/0.png?fromat=webp", "use `format`, `size`, `expires`, `signature`"),
        ("/v1/generations/{id}/images/0?fromat=webp", "use `format`, `size`, `expires`, `signature`"),
        ("/v1/generations?fromat=png", "use `status`, `limit`, `after`, `created_after`, `created_before`, `batch`"),
        ("/v1/generations/{id}?fromat=png", "this route takes none"),
        ("/v1/generations/{id}/events?fromat=png", "this route takes none"),
        ("/v1/generations/{id}/candidates/0/why?fromat=png", "use `prompt`"),
        ("/v1/batches?fromat=png", "use `limit`, `after`"),
        ("/v1/presets?fromat=png", "this route takes none"),
        ("/v1/taste?fromat=png", "this route takes none"),
    ],
)
def test_a_misspelled_parameter_is_refused_with_the_accepted_names(house: House, path: str, accepted: str) -> None:
    answer = house.client.get(path.format(id=house.made(n_candidates=1)["id"]))
    told = is_problem(answer, 422, "invalid_request", "fromat")
    assert told["detail"] == f"fromat: the query parameter is unknown: remove it; {accepted}"
    assert house.client.head(path.format(id=house.made(n_candidates=1)["id"])).status_code in {405, 422}


def test_links_to_images_may_have_what_sites_add(house: House) -> None:
    made = house.made(n_candidates=1)
    for added in ("utm_source=mail&utm_campaign=x", "fbclid=abc", "yclid=1", "_=1764000000"):
        assert house.client.get(f"/v1/generations/{made['id']}/images/0.png?{added}").status_code == 200
    is_problem(house.client.get(f"/v1/generations/{made['id']}?utm_source=x"), 422, "invalid_request", "utm_source")


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/batches", "/v1/rank"])
def test_a_refused_parameter_makes_nothing(house: House, path: str) -> None:
    before = house.client.get("/v1/generations").json()["data"][:1]
    body: dict[str, Any] = {"requests": [PROMPT]} if path == "/v1/batches" else {**PROMPT, "n": 1}
    is_problem(house.post(f"{path}?seed=7&n=2", json=body), 422, "invalid_request", "seed")
    assert house.client.get("/v1/generations").json()["data"][:1] == before


def test_every_native_route_refuses_and_every_other_ignores(house: House) -> None:
    """Which routes refuse follows from their module, not from each route."""
    foreign = {route.path_format for part in FOREIGN for route in part.router.routes if isinstance(route, APIRoute)}
    documented = house.client.get("/openapi.json").json()["paths"]
    native = [(path, method) for path in documented for method in documented[path] if path not in foreign]
    assert len(native) > 20
    for path, method in native:
        if path == "/internal/ping":
            continue
        assert "422" in documented[path][method]["responses"], (path, method)
        answer = house.client.request(method, re.sub("{.*?}", "0", path), params={"fromat": "png"}, json={})
        assert "the query parameter is unknown" in answer.text, (path, method)
    compatible = [(path, method) for path in documented for method in documented[path] if path in foreign]
    for path, method in compatible:
        answer = house.client.request(method, re.sub("{.*?}", "0", path), params={"fromat": "png"}, json={})
        assert "the query parameter is unknown" not in answer.text, (path, method)


@pytest.mark.parametrize("path", ["/v1/models", "/sdapi/v1/samplers", "/sdapi/v1/progress", "/healthz", "/readyz", "/"])
def test_other_routes_ignore_what_clients_add(house: House, path: str) -> None:
    assert house.client.get(f"{path}?api-version=2026-01-01&skip=1").status_code == 200


def test_openai_clients_may_add_parameters(house: House) -> None:
    body = {**PROMPT, "n_candidates": 1}
    assert house.post("/v1/images/generations?api-version=2026-01-01", json=body).status_code == 200


def test_signed_links_are_extended_by_known_parameters_only(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        _, headers = add_key(tmp_path / "data")
        url = house.post(json=PROMPT, headers=headers).json()["data"][0]["url"]
        assert house.client.get(f"{url}&format=webp&size=32x32").status_code == 200
        is_problem(house.client.get(f"{url}&fromat=webp"), 422, "invalid_request", "fromat")


@pytest.mark.parametrize("path", ["/v1/models/", "/v1/generations/", "/v1/batches/", "/sdapi/v1/samplers/", "/readyz/"])
def test_a_slash_at_the_end_changes_nothing(house: House, path: str) -> None:
    answer, other = house.client.get(path), house.client.get(path.removesuffix("/"))
    assert (answer.status_code, answer.json()) == (200, other.json())


@pytest.mark.parametrize(
    "path", ["/v1/generations/", "/v1/images/generations/", "/sdapi/v1/txt2img/", "/v1/rank/", "/v1/embeddings/"]
)
def test_a_slash_at_the_end_keeps_the_body(house: House, path: str) -> None:
    told = house.post(path, json={"prompt": ["x"]})
    assert told.status_code == 422, (path, told.status_code)
    assert re.search("prompt|input", told.text)


def test_a_slash_does_not_pass_the_key(tmp_path: Path) -> None:
    with running(tmp_path) as house:
        add_key(tmp_path / "data")
        for path in ("/v1/models/", "/v1/generations/", "/sdapi/v1/samplers/", "/mcp/"):
            assert house.client.get(path).status_code == 401, path
    with running(tmp_path, root_path="/fr") as house:
        assert house.client.get("/fr/").headers["content-type"].startswith("text/html")
        assert house.client.get("/fr/v1/models/").status_code == 401
