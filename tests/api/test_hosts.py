"""By which names the service answers, and what its absolute links begin with."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.hosts import Hosts
from app.settings import Settings
from tests.api.kit import PROMPT, House, is_problem, running


def _url(house: House, host: str) -> str:
    answer = house.post("/v1/images/generations", json=PROMPT, headers={"host": host})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"][0]["url"])


def test_a_host_that_is_not_known_gets_relative_links(house: House) -> None:
    for host in ("evil.example", "evil.example:8000", "203.0.113.9", "localhost.evil.example"):
        assert _url(house, host).startswith("/v1/generations/gen_")
    for host in ("localhost:1234", "127.0.0.1", "[::1]:99", "studio.localhost"):
        assert _url(house, host).startswith(f"http://{host}/v1/generations/gen_")


def test_links_begin_with_the_public_url(tmp_path: Path) -> None:
    with running(tmp_path, public_url="https://images.example.com/fr/") as house:
        for host in ("evil.example", "localhost"):
            assert _url(house, host).startswith("https://images.example.com/fr/v1/generations/gen_")


def test_only_allowed_hosts_are_served(tmp_path: Path) -> None:
    allowed = "Images.example.com, *.internal, 127.0.0.1"
    with running(tmp_path, allowed_hosts=allowed, public_url="https://cdn.example.com") as house:
        for host in ("images.example.com:8000", "IMAGES.example.com.", "a.b.internal", "cdn.example.com", "127.0.0.1"):
            assert house.client.get("/v1/models", headers={"host": host}).status_code == 200
        for host in ("evil.example", "internal", "example.com", "localhost", "images.example.com.evil.example"):
            for path in ("/v1/models", "/", "/openapi.json"):
                is_problem(house.client.get(path, headers={"host": host}), 400, "bad_request")
            for path in ("/healthz", "/readyz", "/metrics"):
                assert house.client.get(path, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/mcp", "/openapi.json", "/internal/ping", "/v1/models"])
def test_a_path_with_a_line_break_is_unknown(house: House, path: str) -> None:
    is_problem(house.client.get(f"{path}%0A"), 404, "not_found")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        pytest.param("HTTP/1.1", b"400", id="none"),
        pytest.param("HTTP/1.1\r\nhost: a\r\nhost: b", b"400", id="two"),
        pytest.param("HTTP/1.1\r\nhost: a b", b"400", id="space"),
        pytest.param("HTTP/1.1\r\nhost: a/b", b"400", id="slash"),
        pytest.param("HTTP/1.1\r\nhost: u@a", b"400", id="user"),
        pytest.param("HTTP/1.1\r\nhost:", b"400", id="empty"),
        pytest.param("HTTP/1.0\r\nhost: a\r\nhost: b", b"400", id="two-in-1.0"),
        pytest.param("HTTP/1.0", b"200", id="none-in-1.0"),
        pytest.param("HTTP/1.1\r\nhost: my_app:8000", b"200", id="underscore"),
    ],
)
def test_odd_hosts(house: House, lines: str, status: bytes) -> None:
    with socket.create_connection(house.address, timeout=10) as raw:
        raw.sendall(f"GET /v1/models {lines}\r\nconnection: close\r\n\r\n".encode())
        assert raw.recv(65_536).startswith(b"HTTP/1.1 " + status)


def test_without_a_host_links_are_relative() -> None:
    scope: dict[str, Any] = {"headers": [], "server": ("10.0.0.1", 80), "http_version": "1.0"}
    assert Hosts().origin(scope) == ""


@pytest.mark.parametrize(
    "url", ["example.com", "ftp://example.com", "https://", "https://a?b", "https://a#b", "https://u:p@a"]
)
def test_public_urls_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError, match="must be a URL"):
        Settings(data_dir=tmp_path, public_url=url)
