"""Requests that outlast a proxy's patience: headers and white space at once, or 202 after a while."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from app.api import sse
from app.api.negotiation import preferred_wait_s
from tests.api.kit import PROMPT, House, held, running, until
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

KEEP = {"prefer": "keep-alive"}
LONG = {**PROMPT, "steps": 150}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations", "/v1/generations/{id}/refine"])
def test_the_id_comes_first_and_the_json_at_the_end(tmp_path: Path, path: str) -> None:
    with running(tmp_path) as house:
        asked = {"index": 0, "n_candidates": 2, "steps": 4, "strength": 1.0} if "refine" in path else PROMPT
        path = path.replace("{id}", house.made()["id"])
        with held(house) as go_on, house.client.stream("POST", path, json=asked, headers=KEEP) as answer:
            assert answer.status_code == 200
            assert answer.headers["preference-applied"] == "keep-alive"
            assert answer.headers["x-accel-buffering"] == "no"
            own = answer.headers["location"]
            assert own.endswith(answer.headers["x-frontrunner-id"])
            assert house.client.get(own).json()["status"] in {"queued", "running"}
            parts = answer.iter_text()
            silence = ""
            while len(silence) < 3:  # several periods of white space
                silence += next(parts)
            assert set(silence) == {"\n"}
            go_on()
            body = json.loads("".join(parts))
        assert body["id"] == answer.headers["x-frontrunner-id"]
        assert house.client.get(body["data"][0]["url"]).status_code == 200


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/images/generations"])
def test_a_failure_is_a_problem_in_the_body(house: House, path: str) -> None:
    house.generator.fail_on_call = len(house.generator.calls)
    answer = house.post(path, json=PROMPT, headers=KEEP)
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["error"]["code"]) == (500, "engine_failed")
    assert house.post(path, json={"prompt": ""}, headers=KEEP).status_code == 422, "refused before anything is sent"


@pytest.mark.parametrize("key", [None, "mine"])
def test_a_client_that_goes_cancels_unless_it_has_a_key(tmp_path: Path, key: str | None) -> None:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.02)) as house:
        headers = KEEP | ({"idempotency-key": key} if key else {})
        with house.client.stream("POST", "/v1/generations", json=LONG, headers=headers) as answer:
            own = answer.headers["location"]
        if key:
            house.generator.delay_s = 0.0
        ends = "succeeded" if key else "cancelled"
        until(lambda: house.client.get(own).json()["status"] == ends)
        if key:
            assert house.post(json=LONG, headers=headers).json()["id"] == own.rpartition("/")[2]


def test_a_request_may_wait_before_it_goes_on_in_the_background(tmp_path: Path) -> None:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house:
        done = house.post(json=PROMPT, headers={"prefer": "respond-async, wait=60"})
        assert (done.status_code, done.json()["status"]) == (200, "succeeded")
        waiting = house.post(json={**PROMPT, "steps": 100}, headers={"prefer": "wait=1, respond-async"})
        assert (waiting.status_code, waiting.json()["status"]) == (202, "queued")
        assert house.client.get(waiting.headers["location"]).json()["status"] == "running"
        assert house.client.delete(waiting.headers["location"]).status_code == 204
        house.generator.delay_s, house.generator.fail_on_call = 0.0, len(house.generator.calls)
        until(lambda: house.live == 0)
        failed = house.post(json=PROMPT, headers={"prefer": "respond-async, wait=60"})
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_failed")


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [("wait=20", 20), ('respond-async; x, WAIT = "7"', 7), ("wait", 0), ("wait=-1", 0), ("wait=1e9", 0), ("", 0)],
)
def test_seconds_to_wait(prefer: str, seconds: int) -> None:
    assert preferred_wait_s(prefer) == seconds


def test_a_key_that_is_revoked_ends_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.api.middleware import auth as middleware
    from app.service import auth
    from tests.api.keys_kit import add_key, in_folder

    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    monkeypatch.setattr(middleware, "RECHECK_S", 0.05)
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house:
        key, bearer = add_key(tmp_path / "data")
        asked = {**PROMPT, "steps": 150}
        with house.client.stream("POST", "/v1/generations", json=asked, headers=KEEP | bearer) as answer:
            in_folder(tmp_path / "data", lambda store: store.revoke(key.id, 1.0))
            body = httpx.Response(200, content=answer.read()).json()
        assert body["error"]["code"] == "unauthorized"
