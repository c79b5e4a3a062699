"""Stores that go away for a while, full disks, requests that kill: errors are typed, and all recovers by itself."""

from __future__ import annotations

import re
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import PATIENCE_S, running_postgresql, running_s3, until
from tests.system.replicas import ASYNC, Replica, asked, figures, replicas

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
S3_AWAY_S = 20.0


def _queued(replica: Replica, seed: int, **more: Any) -> httpx.Response:
    url = f"{replica.url}/v1/generations"
    return httpx.post(url, json=asked(seed, **more), headers=ASYNC, timeout=PATIENCE_S)


def _standing(replica: Replica, name: str) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{replica.url}/v1/generations/{name}", timeout=PATIENCE_S).json()
    return body


def _succeeds(replica: Replica, name: str) -> dict[str, Any]:
    until(lambda: _standing(replica, name).get("status") in {"succeeded", "failed"}, pause_s=0.2)
    body = _standing(replica, name)
    assert body["status"] == "succeeded", body
    return body


def _live(replica: Replica) -> float:
    told = re.search(
        r"^frontrunner_live_rows (.*)$", httpx.get(f"{replica.url}/metrics", timeout=PATIENCE_S).text, re.M
    )
    assert told is not None
    return float(told[1])


def _is_away(answer: httpx.Response, status: int = 503) -> bool:
    return answer.status_code == status and answer.json()["error"]["code"] == "store_unavailable"


def test_stores_that_go_away_lose_nothing(tmp_path: Path) -> None:
    with running_postgresql() as database, running_s3() as s3:
        settings = {"DATABASE_URL": database.database(), "BLOB_URL": "s3://pictures/x", **s3.environment}
        settings |= {"LEASE_S": "5", "ATTEMPTS": "5"}
        with replicas(tmp_path, 2, 0.05, settings) as (one, two):
            before = httpx.post(f"{one.url}/v1/generations", json=asked(7), timeout=PATIENCE_S).json()
            accepted = [_queued(one, 7).json()["id"] for _ in range(3)]
            database.stop()
            assert _is_away(_queued(two, 7))
            assert _is_away(httpx.get(f"{two.url}/readyz", timeout=PATIENCE_S))
            assert httpx.get(f"{two.url}/healthz", timeout=PATIENCE_S).status_code == 200
            time.sleep(3)
            database.start()
            until(two.ready)
            for name in accepted:
                assert figures(_succeeds(two, name)) == figures(before)

            s3.stop()
            gone = time.monotonic()
            accepted = [_queued(replica, 7).json()["id"] for replica in (one, two)]
            assert _is_away(httpx.get(f"{one.url}{before['data'][0]['url']}", timeout=PATIENCE_S))
            time.sleep(max(0.0, S3_AWAY_S - (time.monotonic() - gone)))
            assert {_standing(one, name)["status"] for name in accepted} == {"running"}
            s3.start()
            for name in accepted:
                assert figures(_succeeds(one, name)) == figures(before)
                assert httpx.get(f"{two.url}/v1/generations/{name}/images/0", timeout=PATIENCE_S).status_code == 200


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with replicas(tmp_path, 1, 0.05) as (replica,):
        pid = replica.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        with ThreadPoolExecutor(1) as pool:
            url = f"{replica.url}/v1/generations"
            waiting = pool.submit(httpx.post, url, json=asked(7, steps=40), timeout=45)
            until(lambda: _live(replica) > 0)
            accepted = [_queued(replica, 7).json()["id"] for _ in range(2)]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
            assert _is_away(_queued(replica, 7))
            assert _is_away(waiting.result(), 504), "the waiting request gets an error, and where to look later"
            assert _is_away(httpx.get(f"{replica.url}/readyz", timeout=PATIENCE_S))
        assert httpx.get(f"{replica.url}/healthz", timeout=PATIENCE_S).status_code == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        for name in (*accepted, waiting.result().headers["location"].rpartition("/")[2]):
            _succeeds(replica, name)
        until(replica.ready)
        assert not list((tmp_path / "data" / "blobs").rglob("*#*"))


def test_what_kills_two_replicas_is_failed_and_who_was_beside_it_is_not(tmp_path: Path) -> None:
    with replicas(tmp_path, 3, 0.05) as trio:
        innocent = [_queued(trio[0], 7, steps=150).json()["id"] for _ in range(4)]
        until(lambda: {_standing(trio[0], one)["status"] for one in innocent} == {"running"})
        name = _queued(trio[0], 7, prompt="poison").json()["id"]
        until(lambda: sum(replica.process.poll() is not None for replica in trio) == 2)
        (alive,) = (replica for replica in trio if replica.process.poll() is None)
        until(lambda: _standing(alive, name)["status"] == "failed")
        assert _standing(alive, name)["error"]["code"] == "interrupted"
        told = httpx.get(f"{alive.url}/v1/generations/{name}/events", timeout=PATIENCE_S).text
        assert told.count("event: started") == 2
        assert '"attempt": 2' in told
        assert 'outcome="failed"} 1.0' in httpx.get(f"{alive.url}/metrics", timeout=PATIENCE_S).text
        for one in innocent:
            _succeeds(alive, one)
            log = httpx.get(f"{alive.url}/v1/generations/{one}/events", timeout=PATIENCE_S).text
            assert '"attempt": 2' in log, "it was there when the replica died, and never again"
        assert httpx.post(f"{alive.url}/v1/generations", json=asked(7), timeout=PATIENCE_S).status_code == 200
        assert alive.process.poll() is None


def test_what_does_not_end_in_time_is_taken_over_at_once(tmp_path: Path) -> None:
    with replicas(tmp_path, 2, 0.05, {"DRAIN_S": "0.5", "LEASE_S": "600"}) as (one, two):
        name = _queued(one, 7, steps=120).json()["id"]
        until(lambda: _standing(two, name)["status"] == "running")
        with ThreadPoolExecutor(1) as pool:
            url = f"{one.url}/v1/generations"
            waiting = pool.submit(httpx.post, url, json=asked(7, steps=120), timeout=PATIENCE_S)
            until(lambda: _live(one) == 6)
            assert one.stop() == 0
            assert waiting.result().status_code == 200, "who waits gets what the other replica makes"
        done = _succeeds(two, name)
        assert figures(waiting.result().json()) == figures(done)
