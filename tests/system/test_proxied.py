"""The service behind the balancers of `docker/` and behind a site's nginx under a sub-path; all of them real."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.api import sse
from app.service import auth
from tests.api.keys_kit import add_key
from tests.api.kit import PROMPT, House, events, running, until
from tests.proxies import far_from_clients, running_edge, running_haproxy, running_hop, running_nginx
from tests.synthetic_models import InstrumentedGenerator
from tests.system.test_balancers import BALANCERS, PATIENCE_S, Balancer

SLOW = {**PROMPT, "steps": 100}
SLOW_S = 0.03
"""Seconds of a step, so that a slow generation outlasts a read timeout of a second."""


@contextmanager
def through_two_hops(house: House, balancer: Balancer, folder: Path) -> Iterator[str]:
    """The URL below which a site serves the service."""
    port = house.address[1]
    with balancer([port, port], folder) as inner, running_edge(httpx.URL(inner).port or 0, folder) as url:
        until(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200)
        yield url


@pytest.mark.parametrize("balancer", BALANCERS)
def test_under_a_sub_path_through_two_hops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balancer: Balancer) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as house, through_two_hops(house, balancer, tmp_path) as url:
        _, bearer = add_key(tmp_path / "data")
        site = httpx.URL(url).copy_with(path="/")
        made = httpx.post(f"{url}/v1/generations", json=PROMPT, headers=bearer, timeout=PATIENCE_S)
        own = made.headers["location"]
        assert own.startswith("/images/v1/generations/gen_")
        assert httpx.get(site.join(own), headers=bearer, timeout=PATIENCE_S).status_code == 200
        openai = httpx.post(f"{url}/v1/images/generations", json=PROMPT, headers=bearer, timeout=PATIENCE_S).json()
        assert openai["data"][0]["url"].startswith(f"{url}/v1/")
        with httpx.stream("GET", site.join(f"{own}/events"), headers=bearer, timeout=PATIENCE_S) as stream:
            log = events(stream.read().decode())
        for image in (made.json()["data"][0], openai["data"][0], log[-1][2]["data"][0]):
            shown = httpx.get(site.join(image["url"]), timeout=PATIENCE_S)
            assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png"), "without a key"
        bare = httpx.get(url, timeout=PATIENCE_S)
        assert (bare.status_code, bare.headers["location"]) == (301, f"{url}/")
        assert "studio/studio.js" in httpx.get(f"{url}/", timeout=PATIENCE_S).text
        assert httpx.get(f"{url}/openapi.json", timeout=PATIENCE_S).json()["servers"] == [{"url": "/images"}]


@pytest.mark.parametrize("balancer", [running_nginx, running_haproxy])
def test_a_client_says_nothing_about_proxies(tmp_path: Path, balancer: Balancer) -> None:
    said = {"x-forwarded-prefix": "/evil", "x-forwarded-host": "localhost:1", "x-forwarded-proto": "https"}
    with running(tmp_path) as house:
        port = house.address[1]
        with balancer([port, port], tmp_path, far_from_clients) as url:  # type: ignore[call-arg]
            until(lambda: httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200)
            made = httpx.post(f"{url}/v1/images/generations", json=PROMPT, headers=said, timeout=PATIENCE_S)
            assert made.json()["data"][0]["url"].startswith(f"{url}/v1/")


@contextmanager
def impatient(tmp_path: Path) -> Iterator[tuple[House, str]]:
    """A slow service behind a proxy that waits two seconds for a response."""
    with (
        running(tmp_path, InstrumentedGenerator(delay_s=SLOW_S)) as house,
        running_hop(house.address[1], tmp_path, "proxy_read_timeout 2s;") as url,
    ):
        yield house, url


def test_a_request_that_a_proxy_cuts_goes_on_with_a_key(tmp_path: Path) -> None:
    once = {"idempotency-key": "mine"}
    with impatient(tmp_path) as (house, url), httpx.Client(timeout=PATIENCE_S) as client:
        statuses: list[int] = []
        while not statuses or statuses[-1] == 504:
            answer = client.post(f"{url}/v1/generations", json=SLOW, headers=once)
            statuses.append(answer.status_code)
        assert statuses[0] == 504
        assert statuses[-1] == 200
        (only,) = house.client.get("/v1/generations").json()["data"]
        assert only["id"] == answer.json()["id"]


def test_white_space_keeps_a_request_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.2)
    with impatient(tmp_path) as (_, url), httpx.Client(timeout=PATIENCE_S) as client:
        keep = {"prefer": "keep-alive"}
        with client.stream("POST", f"{url}/v1/generations", json=SLOW, headers=keep) as answer:
            assert answer.headers["location"].startswith("/v1/generations/gen_")
            assert answer.read().strip().startswith(b'{"id":')


@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed")
def test_the_studio_under_a_sub_path(tmp_path: Path) -> None:
    from tests.system.studio_kit import CHROMIUM, chromium, expect, opened_at, raced

    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with (
        running(tmp_path) as house,
        through_two_hops(house, running_nginx, tmp_path) as url,
        chromium() as browser,
        opened_at(browser, f"{url}/") as page,
    ):
        raced(page, candidates=6)
        image = page.locator(".tile[data-index] img").first
        expect(image).to_be_visible()
        assert image.evaluate("one => one.naturalWidth") > 0
        page.reload()
        expect(page.locator(".tile[data-index]")).to_have_count(6)
        assert page.url.startswith(f"{url}/#gen_")
