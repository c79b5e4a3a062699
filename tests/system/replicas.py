"""Replicas for tests: servers with the fakes or the pack, over one pair of stores, killed and started at will."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from tests.servers import PATIENCE_S, end, free_port, until

ROOT = Path(__file__).parents[2]

FAKES = """
import os, time
from models import protocols, registry
from models.synthetic import generator, scorer
class Generator(generator.FakeGenerator):
    poisoned = False
    def encode(self, texts, **role):
        self.poisoned |= any("poison" in text for text in texts)
        return super().encode(texts, **role)
    def step(self, *given):
        if self.poisoned:
            time.sleep(0.5)
            os._exit(9)
        time.sleep({delay_s})
        return super().step(*given)
registry.load_models = lambda *_: protocols.Models(Generator(), scorer.FakeScorer())
"""

SERVE = """
from app.cli import main
main()
"""

ASYNC = {"prefer": "respond-async"}


class Replica:
    """One server process on a port of its own; `settings` go into its environment, `delay_s` into its next start."""

    def __init__(self, folder: Path, delay_s: float | None, settings: dict[str, str]) -> None:
        self.port = free_port()
        self._folder = folder
        self.delay_s = delay_s
        self._settings = settings
        self.process = self._started()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Again, after it was killed or stopped; returns when it is ready."""
        self.process = self._started()
        self.wait_ready()

    def wait_ready(self) -> None:
        until(self.ready)

    def ready(self) -> bool:
        assert self.process.poll() is None, (self._folder / f"{self.port}.log").read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As an orchestrator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def _started(self) -> subprocess.Popen[bytes]:
        program = ("" if self.delay_s is None else FAKES.format(delay_s=self.delay_s)) + SERVE
        own = {"HOST": "127.0.0.1", "PORT": str(self.port), "DATA_DIR": str(self._folder / "data")}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRONTRUNNER_", "AWS_"))}
        plain = {f"FRONTRUNNER_{k}": v for k, v in (own | self._settings).items() if not k.startswith("AWS_")}
        foreign = {k: v for k, v in self._settings.items() if k.startswith("AWS_")}
        with (self._folder / f"{self.port}.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", program, "serve"],
                cwd=ROOT,
                env=kept | plain | foreign,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )


@contextmanager
def replicas(
    folder: Path, count: int = 2, delay_s: float | None = 0.004, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[list[Replica]]:
    """Ready replicas over the stores that the settings name; by default a SQLite file and a folder.

    `delay_s` is what a denoiser call of the fakes takes; None is the pack.
    """
    given = {"LEASE_S": "2", "LOG_LEVEL": "warning", "PRUNING": "off", **settings}
    started = [Replica(folder, delay_s, given) for _ in range(count)]
    try:
        for replica in started:
            replica.wait_ready()
        yield started
    finally:
        for replica in started:
            if replica.process.poll() is None:
                end(replica.process, signal.SIGKILL)


def asked(seed: int, **more: Any) -> dict[str, Any]:
    return {"prompt": "a red apple", "n_candidates": 3, "steps": 6, "seed": seed, **more}


def figures(body: dict[str, Any]) -> list[tuple[int, float]]:
    """Seed and score of every candidate, which nothing may change."""
    return [(c["seed"], round(c["score"], 4)) for c in body["candidates"]]


async def ended(client: httpx.AsyncClient, url: str, name: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        body: dict[str, Any] = (await client.get(f"{url}/v1/generations/{name}")).json()
        if body["status"] in {"succeeded", "failed", "cancelled"}:
            return body
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} is still {body['status']}")
