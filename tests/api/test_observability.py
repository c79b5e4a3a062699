"""Logs that name request and generation and hold no prompt, and traces on request."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.kit import PROMPT, House, is_problem, running, until
from tests.api.test_webhooks import SECRET, listening
from tests.servers import PATIENCE_S, PostgreSQL, free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORDS = "zebrafish parade"


@contextmanager
def _served(folder: Path, **more: str) -> Iterator[tuple[httpx.Client, list[str]]]:
    """A client of a service in a process of its own; the list holds its log once the block has ended."""
    port = free_port()
    own = {"GENERATOR": "fake", "SCORER": "fake", "DATA_DIR": str(folder / "data"), "PORT": str(port), "DRAIN_S": "0"}
    quiet = {k: v for k, v in os.environ.items() if not k.startswith(("FRONTRUNNER_", "OTEL_"))}
    environment = quiet | {f"FRONTRUNNER_{k}": v for k, v in (own | {"LOG_FORMAT": "json"}).items()} | more
    log = folder / "log"
    lines: list[str] = []
    with log.open("wb") as output, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            until(lambda: _ready(client))
            yield client, lines
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            lines += log.read_text().splitlines()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_logs_name_request_and_generation_and_no_prompt(tmp_path: Path) -> None:
    asked: dict[str, Any] = {**PROMPT, "prompt": WORDS, "negative_prompt": WORDS}
    with (
        listening(500) as receiver,
        _served(tmp_path, FRONTRUNNER_WEBHOOK_SECRET=SECRET, FRONTRUNNER_WEBHOOK_PRIVATE="true") as (client, lines),
    ):
        made = client.post(
            "/v1/generations", json={**asked, "webhook": {"url": receiver.url}}, headers={"x-request-id": "mine"}
        ).json()
        client.post(f"/v1/generations/{made['id']}/rerank", json={"ranking": {"prompt": WORDS}})
        is_problem(client.post("/v1/generations", json={**asked, "n": 99}), 422, "invalid_request")
        is_problem(client.post("/v1/rank", json={"prompt": WORDS, "images": [WORDS]}), 400, "bad_image")
        client.post("/v1/generations", content=f'{{"prompt": "{WORDS}"', headers={"content-type": "application/json"})
        until(lambda: 'frontrunner_webhooks_total{outcome="failed"} 1.0' in client.get("/metrics").text)
        assert receiver.got
    told = [json.loads(line) for line in lines]
    assert not [line for line in lines if "zebrafish" in line]
    mine = [line for line in told if line.get("request_id") == "mine"]
    ended = next(line for line in mine if line["event"] == "generation ended")
    answered = next(line for line in mine if line["event"] == "answered")
    assert ended["generation"] == answered["generation"] == made["id"]
    assert (ended["status"], answered["status"]) == ("succeeded", 200)
    assert [line for line in told if line["event"].startswith("webhook delivery failed")]


def test_stores_are_timed(house: House) -> None:
    house.made()
    figures = house.client.get("/metrics").text
    for operation in ("database_read", "database_write", "blob_put"):
        assert f'frontrunner_store_calls_total{{operation="{operation}"}}' in figures
        assert f'frontrunner_store_seconds_total{{operation="{operation}"}}' in figures


@pytest.mark.slow
def test_traces_go_to_a_collector_when_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the `otel` extra")
    with listening(200) as collector:
        address = f"http://127.0.0.1:{collector.server_port}"
        more = {"FRONTRUNNER_TELEMETRY": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        with _served(tmp_path, OTEL_EXPORTER_OTLP_COMPRESSION="none", **more) as (client, _):
            assert client.post("/v1/generations", json={**PROMPT, "prompt": WORDS}).status_code == 200
        until(lambda: any(b"/v1/generations" in body for _, body in collector.got))
    assert not [body for _, body in collector.got if b"zebrafish" in body or b"/readyz" in body]


def test_whether_notifications_arrive_is_a_metric(tmp_path: Path, house: House, postgresql: PostgreSQL) -> None:
    assert "frontrunner_notifications 0.0" in house.client.get("/metrics").text, "a file has none"
    with running(tmp_path, database_url=postgresql.database(), database_connections=2) as served:
        until(lambda: "frontrunner_notifications 1.0" in served.client.get("/metrics").text)
        assert served.made()["status"] == "succeeded"
