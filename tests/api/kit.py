"""A running service on the fakes: a real uvicorn in a thread, so that connections can be slow, cut and kept."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from app.cli.serve import server_config
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import ModelRegistry
from app.main import create_app
from app.settings import Settings
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering
from tests.servers import PATIENCE_S
from tests.servers import until as until
from tests.synthetic_models import InstrumentedGenerator

PROMPT = {"prompt": "a red apple", "n_candidates": 3, "steps": 4, "seed": 7}


class House:
    """A service at `url`, its fakes, and a client of it."""

    def __init__(self, url: str, app: FastAPI, generator: InstrumentedGenerator, client: httpx.Client) -> None:
        self.url = url
        self.app = app
        self.generator = generator
        self.client = client

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    @property
    def live(self) -> int:
        """Candidates that the engine holds, waiting or running."""
        stats = self.app.state.engine.stats()
        return int(stats.held)

    def post(self, path: str = "/v1/generations", **given: Any) -> httpx.Response:
        return self.client.post(path, **given)

    def made(self, **asked: Any) -> dict[str, Any]:
        answer = self.post(json={**PROMPT, **asked})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def queued(self, **asked: Any) -> dict[str, Any]:
        answer = self.post(json={**PROMPT, **asked}, headers={"prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        result: dict[str, Any] = answer.json()
        return result


def hang_up(house: House, path: str, body: Any, once: Callable[[], object], **headers: str) -> None:
    """Post, and close the connection as soon as `once()` is true: no clock says when."""
    content = json.dumps(body).encode()
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection(house.address) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        until(once)


@contextmanager
def held(*houses: House) -> Iterator[Callable[[], None]]:
    """Steps wait until the function is called, or the block ends."""
    go_on = threading.Event()
    steps = [house.generator.step for house in houses]

    def wait_then(step: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*given: Any) -> Any:
            go_on.wait(60)
            return step(*given)

        return waiting

    for house, step in zip(houses, steps, strict=True):
        house.generator.step = wait_then(step)  # type: ignore[method-assign]
    try:
        yield go_on.set
    finally:
        go_on.set()
        for house, step in zip(houses, steps, strict=True):
            house.generator.step = step  # type: ignore[method-assign]


@contextmanager
def running(
    tmp_path: Path,
    generator: InstrumentedGenerator | None = None,
    wait: bool = True,
    load: Callable[[], Models] | None = None,
    registry: ModelRegistry | None = None,
    ready_s: float = PATIENCE_S,
    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32),
    warmup_s: float = 0.0,
    **given: Any,
) -> Iterator[House]:
    """A service with these settings; the block starts once it is ready, or at once."""
    generator = generator or InstrumentedGenerator()
    settings = Settings(**{"data_dir": tmp_path / "data", "drain_s": 0, "port": 0, **given})
    engine_config = EngineConfig(capacity=settings.max_queued_candidates, warmup_s=warmup_s, buckets=buckets)
    engine = LocalEngine(
        load or (lambda: Models(generator, FakeScorer(), steering=FakeSteering())), engine_config, lambda _: None
    )
    app = create_app(settings, registry or engine)
    config = server_config(app, settings)
    config.lifespan, config.timeout_graceful_shutdown = "on", 5
    server = uvicorn.Server(config)
    app.state.connections = server.server_state.connections
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            if wait:
                until(lambda: client.get("/readyz").status_code == 200, ready_s)
            yield House(url, app, generator, client)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


def events(text: str) -> list[tuple[str, int | None, dict[str, Any]]]:
    """Kind, number and data of each event of a whole stream."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((fields["event"], number, json.loads(fields["data"])))
    return found


def is_problem(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """Check the form of an error, and that it tells nothing of the inside; its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["error"]["code"] == code, body
    assert body["type"].endswith(code)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    if pointer is not None:
        assert pointer in [e.get("pointer", e.get("parameter")) for e in body["errors"]], body
    for secret in ("Traceback", "site-packages", "/app/", "/tmp", ".py"):
        assert secret not in answer.text
    return body
