"""Behind proxies and under a sub-path: links are right, and headers count from trusted addresses only."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.api.middleware.forwarded import clean_prefix
from app.settings import Settings
from tests.api.kit import PROMPT, House, events, is_problem, running
from tests.servers import PATIENCE_S

pytestmark = pytest.mark.slow

FORWARDED = {
    "x-forwarded-proto": "https",
    "x-forwarded-host": "localhost:8443",
    "x-forwarded-prefix": "/pictures",
    "x-forwarded-for": "198.51.100.7",
}


def _url(house: House, **headers: str) -> str:
    answer = house.post("/v1/images/generations", json=PROMPT, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"][0]["url"])


def test_a_trusted_proxy_says_scheme_host_and_prefix(house: House) -> None:
    assert _url(house, **FORWARDED).startswith("https://localhost:8443/pictures/v1/generations/gen_")
    assert _url(house).startswith(f"{house.url}/v1/generations/gen_")


def test_headers_of_other_addresses_are_ignored_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, trusted_proxies="10.0.0.0/8") as house:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert _url(house, **FORWARDED).startswith(f"{house.url}/v1/generations/gen_")
        told = [r.getMessage() for r in caplog.records if "FRONTRUNNER_TRUSTED_PROXIES" in r.getMessage()]
        assert len(told) == 1
        assert "127.0.0.1" in told[0]


def test_the_public_url_wins(tmp_path: Path) -> None:
    with running(tmp_path, public_url="https://images.example.com/fr/") as house:
        assert _url(house, **FORWARDED).startswith("https://images.example.com/fr/v1/generations/gen_")
        assert house.made()["data"][0]["url"].startswith("/fr/v1/generations/gen_")


@pytest.mark.parametrize("sent", ["/fr", "/fr/", "/a,/b", "/a, /b/"])
def test_prefixes_of_several_proxies_are_joined(house: House, sent: str) -> None:
    expected = sent.replace(" ", "").rstrip("/").replace(",", "")
    answer = house.post(json=PROMPT, headers={"x-forwarded-prefix": sent})
    assert answer.headers["location"].startswith(f"{expected}/v1/generations/gen_")
    where = f"/v1/generations/{answer.json()['id']}/candidates/0/why"
    why = house.client.get(where, headers={"x-forwarded-prefix": sent}).json()
    assert why["phrases"][0]["heat_map"].startswith(f"{expected}/v1/generations/gen_")


@pytest.mark.parametrize(
    "sent", ["fr", "//evil.example", "/../x", "/./x", "/a b", "/a?b", "/v1", "/" + "a" * 300, "/é"]
)
def test_prefixes_that_are_none_are_ignored(house: House, sent: str) -> None:
    answer = house.post(json=PROMPT, headers={b"x-forwarded-prefix": sent.encode()})
    assert answer.headers["location"].startswith("/v1/generations/gen_")
    assert clean_prefix(sent) is None


def _check_all_addresses(house: House, door: str) -> None:
    """Everything that the service names is below /fr; `door` is what a proxy leaves of it."""
    made = house.post(f"{door}/v1/generations", json=PROMPT)
    own = made.headers["location"]
    assert own == f"/fr/v1/generations/{made.json()['id']}"
    images = [image["url"] for image in made.json()["data"]]
    queued = house.post(f"{door}/v1/generations", json=PROMPT, headers={"prefer": "respond-async"})
    streamed = house.post(f"{door}/v1/generations", json=PROMPT, headers={"accept": "text/event-stream"})
    images += [image["url"] for image in events(streamed.text)[-1][2]["data"]]
    kept = house.post(f"{door}/v1/generations/{made.json()['id']}/rerank", json={"store": True})
    for place in (own, queued.headers["location"], streamed.headers["location"], kept.headers["location"], *images):
        assert place.startswith("/fr/v1/")
        assert house.client.get(place).status_code == 200
        assert house.client.get(door + place.removeprefix("/fr")).status_code == 200
        with httpx.Client(base_url=f"{house.url}/fr", timeout=PATIENCE_S) as joined:
            assert joined.get(place).status_code == 200, "httpx appends what begins with a slash"
    missing = is_problem(house.client.get(f"{door}/v1/generations/x"), 404, "not_found")
    assert missing["instance"] == "/fr/v1/generations/x"
    for path in ("/healthz", "/docs", "/", "/studio/studio.js"):
        assert house.client.get(door + path).status_code == 200
    page = house.client.get(f"{door}/docs").text
    addresses = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)["']""", page)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/fr/"), address
        assert house.client.get(address).status_code == 200
    document = house.client.get(f"{door}/openapi.json").json()
    assert document["servers"] == [{"url": "/fr"}]


@pytest.mark.parametrize("door", ["", "/fr"])
@pytest.mark.parametrize("settings", [{"root_path": "/fr"}, {"public_url": "https://images.example.com/fr"}])
def test_under_a_path_everything_is_below_it(tmp_path: Path, settings: dict[str, Any], door: str) -> None:
    with running(tmp_path, **settings) as house:
        _check_all_addresses(house, door)
        bare = house.client.get("/fr")
        assert (bare.status_code, bare.headers["location"]) == (307, "/fr/"), "the studio's addresses are relative"


def test_an_idempotency_key_is_the_same_under_every_path(tmp_path: Path) -> None:
    with running(tmp_path, root_path="/fr") as house:
        made = house.made()
        places = [f"{door}/v1/generations/{made['id']}/refine" for door in ("", "/fr")]
        asked = {"json": {"index": 0, "n_candidates": 1}, "headers": {"idempotency-key": "once"}}
        assert len({house.post(place, **asked).json()["id"] for place in places}) == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("root_path", "images", "must be a path"),
        ("root_path", "/v1", "must be a path"),
        ("trusted_proxies", "balancer", "must be IP addresses"),
        ("trusted_proxies", "10.0.0.0/99", "must be IP addresses"),
        ("public_url", "https://a.example/a b", "must be a URL"),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(data_dir=tmp_path, **{name: value})  # type: ignore[arg-type]
