"""Signed image links: a page shows them without a key, until it expires. A forged link is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.cli import app as commands
from app.domain import Candidate, Status
from app.service import LinkSigner, Permission, auth, links
from app.service.webhooks import dispatcher
from app.service.webhooks.dispatcher import build_payload
from app.settings import Settings
from tests.api.keys_kit import add_key, in_folder
from tests.api.kit import PROMPT, House, events, is_problem, running, until
from tests.api.test_webhooks import listening
from tests.unit.store_kit import generation

pytestmark = pytest.mark.slow

PNG = b"\x89PNG"


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, dict[str, str]]]:
    """A service with a key, and the header that presents it."""
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    monkeypatch.setattr(links, "SECRETS_TTL_S", 0.0)
    with running(tmp_path) as house:
        yield house, add_key(tmp_path / "data")[1]


def _made(house: House, bearer: dict[str, str], **asked: Any) -> dict[str, Any]:
    answer = house.post(json={**PROMPT, **asked}, headers=bearer)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def _shown(house: House, url: str) -> httpx.Response:
    """What a page gets that has no key."""
    return house.client.get(url)


def test_without_keys_links_are_plain(house: House) -> None:
    url = house.made()["data"][0]["url"]
    assert "?" not in url
    assert _shown(house, url).status_code == 200


def test_every_link_shows_its_image_without_a_key(guarded: tuple[House, dict[str, str]]) -> None:
    house, bearer = guarded
    made = _made(house, bearer, n=2)
    own = f"/v1/generations/{made['id']}"
    openai = house.post("/v1/images/generations", json=PROMPT, headers=bearer).json()
    streamed = house.post(json=PROMPT, headers={**bearer, "accept": "text/event-stream"})
    answers = (
        made,
        house.client.get(own, headers=bearer).json(),
        house.post(f"{own}/rerank", json={"n": 3}, headers=bearer).json(),
        house.post(f"{own}/rerank", json={"n": 3, "store": True}, headers=bearer).json(),
        house.client.get(f"{own}/lineage", headers=bearer).json()["data"][0],
        house.post(f"{own}/refine", json={"index": 0, "n_candidates": 2}, headers=bearer).json(),
        house.client.get("/v1/generations", headers=bearer).json()["data"][0],
        openai,
        events(streamed.text)[-1][2],
        events(house.client.get(f"{own}/events", headers=bearer).text)[-1][2],
    )
    for answer in answers:
        assert answer["data"]
        for image in answer["data"]:
            shown = _shown(house, image["url"])
            assert (shown.status_code, shown.content[:4]) == (200, PNG), image["url"]
    webp = _shown(house, f"{made['data'][0]['url']}&format=webp&size=16x16")
    assert webp.headers["content-type"] == "image/webp"
    head = house.client.head(made["data"][0]["url"])
    assert (head.status_code, head.content) == (200, b"")


def test_a_link_is_good_for_its_image_only(guarded: tuple[House, dict[str, str]]) -> None:
    house, bearer = guarded
    made, other = _made(house, bearer), _made(house, bearer)
    url: str = made["data"][0]["url"]
    index = made["data"][0]["index"]
    path, query = url.split("?")
    forged = [
        url.replace(made["id"], other["id"]),
        path.replace(f"/{index}.", f"/{(index + 1) % 3}.") + f"?{query}",
        url[:-1] + ("A" if url[-1] != "A" else "B"),
        url.replace("expires=", "expires=9"),
        f"{path}?signature={'A' * 43}",
        f"{path}?expires=99999999999&signature=",
        f"{path}?expires=x&signature=%ff%ed",
        f"{path}?{query.split('&')[1]}",
    ]
    for one in forged:
        is_problem(_shown(house, one), 403, "invalid_link")
    is_problem(_shown(house, path), 401, "unauthorized")
    is_problem(_shown(house, f"{path}?{query.split('&')[0]}"), 401, "unauthorized")
    is_problem(house.client.delete(f"/v1/generations/{made['id']}?{query}"), 401, "unauthorized")
    is_problem(house.client.get(f"/v1/generations/{made['id']}?{query}"), 401, "unauthorized")
    is_problem(house.client.get(url, headers={"x-api-key": "wrong"}), 401, "unauthorized")
    assert _shown(house, url).status_code == 200


def test_a_link_ends_with_its_time_and_with_its_generation(
    guarded: tuple[House, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, bearer = guarded
    made = _made(house, bearer)
    url = made["data"][0]["url"]
    signer: LinkSigner = house.app.state.links
    now, expires = signer._clock(), int(httpx.URL(url).params["expires"])
    assert 3600 <= expires - now <= 3600 * 1.25 + 1
    assert house.client.get(f"/v1/generations/{made['id']}", headers=bearer).json()["data"][0]["url"] == url
    monkeypatch.setattr(signer, "_clock", lambda: expires - 5.0)
    assert _shown(house, url).headers["cache-control"] == "private, max-age=5, immutable"
    assert house.client.get(url, headers=bearer).headers["cache-control"] == "private, max-age=5, immutable"
    monkeypatch.setattr(signer, "_clock", lambda: expires + 1.0)
    is_problem(_shown(house, url), 403, "link_expired")
    monkeypatch.setattr(signer, "_clock", lambda: now)
    assert house.client.delete(f"/v1/generations/{made['id']}", headers=bearer).status_code == 204
    is_problem(_shown(house, url), 404, "not_found")


def test_links_of_one_replica_are_good_at_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path) as one, running(tmp_path) as two:
        url = _made(one, add_key(tmp_path / "data")[1])["data"][0]["url"]
        assert _shown(two, url).status_code == 200


def test_the_key_of_links_can_be_replaced(guarded: tuple[House, dict[str, str]], tmp_path: Path) -> None:
    house, bearer = guarded
    url = _made(house, bearer)["data"][0]["url"]
    environment = {**os.environ, "FRONTRUNNER_DATA_DIR": str(tmp_path / "data")}
    rotated = CliRunner().invoke(commands, ["keys", "rotate-links"], env=environment)
    assert rotated.exit_code == 0, rotated.output
    newer = _made(house, bearer)["data"][0]["url"]
    assert [_shown(house, one).status_code for one in (url, newer)] == [200, 200]
    in_folder(tmp_path / "data", lambda store: store.rotate_link_secret("s" * 32, 0.0))
    is_problem(_shown(house, url), 403, "invalid_link")
    assert _shown(house, newer).status_code == 200


def test_configured_keys_sign_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    old, new = "o" * 32, "n" * 40
    with running(tmp_path, link_keys=old, link_s=60) as house:
        bearer = add_key(tmp_path / "data", Permission.ADMIN)[1]
        url = _made(house, bearer)["data"][0]["url"]
    with running(tmp_path, link_keys=f"{new}, {old}") as house:
        assert _shown(house, url).status_code == 200
        newer = _made(house, bearer)["data"][0]["url"]
    with running(tmp_path, link_keys=new) as house:
        assert _shown(house, newer).status_code == 200
        is_problem(_shown(house, url), 403, "invalid_link")
    with pytest.raises(ValidationError, match="at least 32 characters"):
        Settings(data_dir=tmp_path, link_keys=f"{new},short")


def test_a_webhook_holds_links_that_show_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    monkeypatch.setattr(dispatcher, "OUTBOX_POLL_INTERVAL_S", 0.05)
    site = "https://images.example.com"
    with running(tmp_path, webhook_private=True, public_url=f"{site}/fr") as house, listening() as receiver:
        _made(house, add_key(tmp_path / "data")[1], webhook={"url": receiver.url})
        until(lambda: receiver.got)
        data = json.loads(receiver.got[0][1])["data"]
        assert data["url"] == f"{site}/fr/v1/generations/{data['id']}"
        url = data["data"][0]["url"]
        assert url.startswith(f"{site}/fr/v1/")
        assert _shown(house, url.removeprefix(site)).content[:4] == PNG


def test_links_in_a_webhook_are_signed_and_absolute() -> None:
    signer = LinkSigner(None, ["k" * 32], 60.0, lambda: 1000.0)  # type: ignore[arg-type]
    with links.using_links(prefix="https://images.example.com/fr", signer=signer):
        ended = replace(generation(status=Status.SUCCEEDED), candidates=(Candidate(1, 8, rank=1),))
        data = json.loads(build_payload(ended))["data"]
    own = "https://images.example.com/fr/v1/generations/gen_a"
    assert data["url"] == own
    assert data["data"][0]["url"] == f"{own}/images/1.png?{signer.query('gen_a', 1)}"
