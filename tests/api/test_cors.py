"""Browser apps of other origins: named ones are served, preflights need no key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from app.service import auth
from app.settings import Settings
from tests.api.keys_kit import add_key
from tests.api.kit import PROMPT, House, is_problem, running
from tests.servers import PATIENCE_S

pytestmark = pytest.mark.slow

APP = "https://app.example.com"


@pytest.fixture
def open_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, dict[str, str]]]:
    """A service with a key, for the browser app of one origin."""
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path, cors_origins=f"{APP}, http://localhost:5173") as house:
        yield house, add_key(tmp_path / "data")[1]


def _preflight(house: House, origin: str, path: str = "/v1/generations") -> httpx.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}
    return house.client.options(path, headers={"origin": origin, **asked})


def _granted(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations", "/v1/generations/x", "/healthz"])
def test_a_preflight_needs_no_key(open_to: tuple[House, dict[str, str]], path: str) -> None:
    answer = _preflight(open_to[0], APP, path)
    assert answer.status_code == 200
    granted = _granted(answer)
    assert granted["access-control-allow-origin"] == APP
    assert "POST" in granted["access-control-allow-methods"]
    assert granted["access-control-allow-headers"] == "authorization, x-stainless-os"
    assert "access-control-allow-credentials" not in granted


def test_a_named_origin_reads_answers_and_their_headers(open_to: tuple[House, dict[str, str]]) -> None:
    house, bearer = open_to
    answer = house.post(json=PROMPT, headers={**bearer, "origin": APP})
    assert answer.status_code == 200
    granted = _granted(answer)
    assert granted["access-control-allow-origin"] == APP
    exposed = granted["access-control-expose-headers"].lower().split(", ")
    assert {"location", "ratelimit", "x-frontrunner-seed", "retry-after"} <= set(exposed)
    assert "access-control-allow-credentials" not in granted
    assert "Origin" in answer.headers["vary"]
    refused = house.post(json=PROMPT, headers={"origin": APP})
    is_problem(refused, 401, "unauthorized")
    assert _granted(refused)["access-control-allow-origin"] == APP, "the app can read why"
    url = answer.json()["data"][0]["url"]
    assert "origin" in house.client.get(url).headers["vary"].lower(), "what is cached without an origin"


def test_a_named_origin_can_read_of_a_defect(
    open_to: tuple[House, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, bearer = open_to

    async def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(house.app.state.services.generations, "get", broken)
    url = f"{house.url}/v1/generations/gen_01KAQ8M4N6R9T2V5X8Z1C4E7GH"
    answer = httpx.get(url, headers={**bearer, "origin": APP}, timeout=PATIENCE_S)
    is_problem(answer, 500, "internal_error")
    assert _granted(answer)["access-control-allow-origin"] == APP
    assert not _granted(httpx.get(url, headers=bearer, timeout=PATIENCE_S))


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example.com", f"{APP}.evil.example", "null"])
def test_other_origins_get_nothing(open_to: tuple[House, dict[str, str]], origin: str) -> None:
    house, bearer = open_to
    refused = _preflight(house, origin)
    assert "FRONTRUNNER_CORS_ORIGINS" in is_problem(refused, 403, "forbidden")["detail"]
    answer = house.post(json=PROMPT, headers={**bearer, "origin": origin})
    assert answer.status_code == 200, "a proxy may add an origin; a browser withholds the answer"
    assert not _granted(refused)
    assert not _granted(answer)


def test_nothing_is_granted_by_default(house: House) -> None:
    is_problem(_preflight(house, APP), 403, "forbidden")
    answer = house.client.get("/v1/models", headers={"origin": APP})
    assert not _granted(answer)
    assert "vary" not in answer.headers


def test_every_origin_may_be_allowed(tmp_path: Path) -> None:
    with running(tmp_path, cors_origins="*") as house:
        assert _granted(_preflight(house, APP))["access-control-allow-origin"] == "*"
        answer = house.client.get("/v1/models", headers={"origin": APP})
        assert _granted(answer)["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("value", ["app.example.com", "https://a.example/", "https://a.example/x", "null", "ftp://a"])
def test_origins_that_are_none(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValidationError, match="must be origins"):
        Settings(data_dir=tmp_path, cors_origins=value)
