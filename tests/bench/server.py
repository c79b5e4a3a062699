"""The service as a user runs it: a process of its own on a free port, asked over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from app.cli.local_server import running_service

TIMEOUT = httpx.Timeout(600.0)


@contextmanager
def service() -> Iterator[httpx.Client]:
    """A client of a running service on the embedded pack."""
    with running_service() as url, httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
        yield client


def generate(client: httpx.Client, prompt: str, **body: Any) -> dict[str, Any]:
    """One plain POST."""
    answer = client.post("/v1/generations", json={"prompt": prompt, **body})
    answer.raise_for_status()
    made: dict[str, Any] = answer.json()
    return made


def at_once(url: str, bodies: list[dict[str, Any]]) -> list[float]:
    """Seconds from now to each answer, all asked for at the same time."""

    async def ask(client: httpx.AsyncClient, body: dict[str, Any], started: float) -> float:
        (await client.post("/v1/generations", json=body)).raise_for_status()
        return time.perf_counter() - started

    async def main() -> list[float]:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            started = time.perf_counter()
            return list(await asyncio.gather(*(ask(client, b, started) for b in bodies)))

    return asyncio.run(main())


def one_by_one(url: str, bodies: list[dict[str, Any]]) -> None:
    """The same from one client that waits for each answer."""

    async def main() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            for body in bodies:
                (await client.post("/v1/generations", json=body)).raise_for_status()

    asyncio.run(main())


def beside(url: str, large: dict[str, Any], small: dict[str, Any], after_s: float) -> float:
    """Seconds to the answer of `small`, asked `after_s` after `large`, which is then cancelled."""

    async def main() -> float:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            running = await client.post("/v1/generations", json=large, headers={"prefer": "respond-async"})
            running.raise_for_status()
            await asyncio.sleep(after_s)
            started = time.perf_counter()
            (await client.post("/v1/generations", json=small)).raise_for_status()
            took = time.perf_counter() - started
            (await client.delete(f"/v1/generations/{running.json()['id']}")).raise_for_status()
            return took

    return asyncio.run(main())
