"""The web UI's API while requests run: progress, interruption, keys, clients that leave."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.compat.a1111.jobs import MAX_OWNERS, Jobs
from app.domain import Event, EventKind, Progress
from app.service import Permission, auth
from tests.api.keys_kit import add_key
from tests.api.kit import House, hang_up, running, until
from tests.api.test_a1111 import SMALL, TXT2IMG, opened, refused, warning_codes
from tests.synthetic_models import InstrumentedGenerator
from tests.unit.store_kit import generation

pytestmark = pytest.mark.slow


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[House]:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as it:
        yield it


def _in_background(house: House, found: list[httpx.Response], **members: Any) -> threading.Thread:
    body = {**SMALL, "steps": 100, **members}
    thread = threading.Thread(target=lambda: found.append(house.post(TXT2IMG, json=body)))
    thread.start()
    return thread


def _progress(house: House, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = house.client.get("/sdapi/v1/progress", **options).json()
    return found


def test_progress_while_a_request_runs_and_its_interruption(slow: House) -> None:
    idle = _progress(slow)
    assert (idle["progress"], idle["eta_relative"], idle["state"]["job_count"]) == (0, 0, 0)
    assert list(idle) == ["progress", "eta_relative", "state", "current_image", "textinfo"]
    found: list[httpx.Response] = []
    thread = _in_background(slow, found)
    until(lambda: _progress(slow)["state"]["sampling_step"] > 2)
    busy = _progress(slow, params={"skip_current_image": "true"})
    assert 0 < busy["progress"] < 1
    assert busy["eta_relative"] > 0
    assert busy["current_image"] is None
    assert (busy["state"]["job"], busy["state"]["job_count"], busy["state"]["sampling_steps"]) == ("txt2img", 1, 100)
    assert slow.post("/sdapi/v1/interrupt").json() == {}
    thread.join(60)
    assert found[0].status_code == 200, found[0].text
    body = found[0].json()
    assert body["images"] == []
    assert ("interrupted", "") in warning_codes(json.loads(body["info"]))
    assert _progress(slow) == idle
    until(lambda: slow.live == 0)


def test_an_interrupted_race_gives_its_best_preview(slow: House) -> None:
    found: list[httpx.Response] = []
    thread = _in_background(slow, found, width=128, height=128, frontrunner_previews=4)
    until(lambda: _progress(slow)["current_image"] is not None)
    shown = opened(_progress(slow)["current_image"])
    assert shown.size == (128, 128)
    assert slow.post("/sdapi/v1/skip").json() is None
    thread.join(60)
    body = found[0].json()
    info = json.loads(body["info"])
    assert opened(body["images"][0]).size == (128, 128)
    assert opened(body["images"][0]).info["parameters"] == info["infotexts"][0]
    assert info["all_seeds"][0] in range(7, 11)
    assert slow.client.get(f"/v1/generations/{info['frontrunner']['id']}").json()["status"] == "cancelled"


def test_a_key_is_the_password_and_sees_its_own_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KEY_CACHE_TTL_S", 0.0)
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house:
        mine, other, reader = (
            add_key(tmp_path / "data", *rights)[1]["authorization"].removeprefix("Bearer ")
            for rights in ((), (), (Permission.READ,))
        )
        answer = house.client.get("/sdapi/v1/samplers")
        refused(answer, 401, "unauthorized", "missing")
        assert answer.headers["www-authenticate"].startswith("Basic")
        for wrong in (("user", "x"), ("", ""), (mine, "")):
            refused(house.client.get("/sdapi/v1/samplers", auth=wrong), 401, "unauthorized", "key")
        broken = {"authorization": "Basic !"}
        refused(house.client.get("/sdapi/v1/samplers", headers=broken), 401, "unauthorized", "key")
        assert house.client.get("/v1/models", auth=("any", mine)).status_code == 401
        refused(house.post(TXT2IMG, json=SMALL, auth=("any", reader)), 403, "forbidden", "generate")
        assert house.post("/sdapi/v1/options", json={}, auth=("any", reader)).status_code == 200
        bearer = {"authorization": f"Bearer {mine}"}
        assert house.client.get("/sdapi/v1/samplers", headers=bearer).status_code == 200
        found: list[httpx.Response] = []
        body = {**SMALL, "steps": 100}
        thread = threading.Thread(target=lambda: found.append(house.post(TXT2IMG, json=body, auth=("any", mine))))
        thread.start()
        until(lambda: _progress(house, auth=("any", mine))["state"]["job_count"] == 1)
        assert _progress(house, auth=("any", other))["state"]["job_count"] == 0
        house.post("/sdapi/v1/interrupt", auth=("any", other))
        assert _progress(house, auth=("any", mine))["state"]["interrupted"] is False
        house.post("/sdapi/v1/interrupt", auth=("any", mine))
        thread.join(60)
        assert json.loads(found[0].json()["info"])["warnings"][-1]["code"] == "interrupted"


def test_a_client_that_leaves_cancels_its_request(slow: House) -> None:
    hang_up(slow, TXT2IMG, {**SMALL, "steps": 150}, lambda: slow.live > 0)
    until(lambda: slow.live == 0 and _progress(slow)["state"]["job_count"] == 0)


def test_any_replica_shows_and_interrupts_requests(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        running(tmp_path, InstrumentedGenerator(delay_s=0.05), data_dir=data) as busy,
        running(tmp_path, data_dir=data) as other,
    ):
        idle = _progress(other)
        native = busy.queued(steps=100)["id"]
        assert _progress(other) == idle, "a request of another API is no job"
        found: list[httpx.Response] = []
        thread = _in_background(busy, found, width=128, height=128, frontrunner_previews=4)
        until(lambda: _progress(other)["current_image"] is not None)
        shown = _progress(other)
        assert (shown["state"]["job"], shown["state"]["job_count"]) == ("txt2img", 1)
        assert 0 < shown["progress"] < 1
        assert 0 < shown["state"]["sampling_step"] <= shown["state"]["sampling_steps"] == 100
        assert other.post("/sdapi/v1/interrupt").status_code == 200
        thread.join(60)
        assert found[0].status_code == 200, found[0].text
        body = found[0].json()
        assert ("interrupted", "") in warning_codes(json.loads(body["info"]))
        assert len(body["images"]) == 1
        assert _progress(other) == idle
        assert busy.client.get(f"/v1/generations/{native}").json()["status"] == "running"
        busy.client.delete(f"/v1/generations/{native}")


def test_the_log_of_another_replica_is_read_once() -> None:
    """What was read of it stays with the job from poll to poll, until the request has ended."""
    jobs, running_one = Jobs(), replace(generation("gen_a"), progress=Progress(0.25, 3, 8))
    (job,) = jobs.elsewhere("key", [running_one])
    job.read(Event(7, EventKind.PREVIEW, {"index": 0, "step": 3, "score": 0.5, "image": "data:x"}, 0.0))
    (again,) = jobs.elsewhere("key", [replace(running_one, progress=Progress(0.5, 6, 8))])
    assert again is job
    assert (again.seq, again.step, again.share) == (7, 6, 0.5)
    assert again.preview is not None
    assert [other.seq for other in jobs.elsewhere("other", [running_one])] == [0]
    assert jobs.elsewhere("key", []) == []
    assert [late.seq for late in jobs.elsewhere("key", [running_one])] == [0]
    for number in range(MAX_OWNERS):
        jobs.elsewhere(str(number), [running_one])
    assert len(jobs._elsewhere) == MAX_OWNERS


def test_keys_separate_requests_on_any_replica(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with (
        running(tmp_path, InstrumentedGenerator(delay_s=0.05), data_dir=data) as busy,
        running(tmp_path, data_dir=data) as other,
    ):
        mine, theirs = (add_key(data)[1] for _ in range(2))
        found: list[httpx.Response] = []
        body = {**SMALL, "steps": 100}
        thread = threading.Thread(target=lambda: found.append(busy.post(TXT2IMG, json=body, headers=mine)))
        thread.start()
        until(lambda: _progress(other, headers=mine)["state"]["job_count"] == 1)
        assert _progress(other, headers=theirs)["state"]["job_count"] == 0
        other.post("/sdapi/v1/interrupt", headers=theirs)
        assert _progress(other, headers=mine)["state"]["job_count"] == 1
        other.post("/sdapi/v1/interrupt", headers=mine)
        thread.join(60)
        assert json.loads(found[0].json()["info"])["warnings"][-1]["code"] == "interrupted"
