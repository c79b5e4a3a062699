"""More requests than one replica can take, and what became of each. Counts and measures; judges nothing."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.system.replicas import ASYNC, Replica, asked, ended

CANDIDATES = 3
CAPACITY = 24
"""Candidates the replica holds: eight requests, each of `CANDIDATES`."""

SETTINGS = {"MAX_QUEUED_CANDIDATES": str(CAPACITY), "MAX_CANDIDATES": "8", "DEFAULT_CANDIDATES": "8"}
DELAY_S = 0.1
"""Of a denoiser call: slow enough that a test's client can ask for ten times as much."""

TIMES = 10


@dataclass
class Answers:
    """What was answered: seconds of plain requests that were accepted and of refused ones, ids of queued ones."""

    done: list[float] = field(default_factory=list)
    refused: list[tuple[float, httpx.Response]] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def take(self, answer: httpx.Response, seconds: float) -> None:
        if answer.status_code == 200:
            self.done.append(seconds)
        elif answer.status_code == 202:
            self.queued.append(answer.json()["id"])
        elif answer.status_code == 503:
            self.refused.append((seconds, answer))
        else:
            self.odd.append(answer.text)


@dataclass
class Overload:
    """A full load, then `TIMES` as much. `waiting` and `rss_mib` were looked at once a second of the overload."""

    full: Answers
    over: Answers
    asked_per_s: float
    statuses: list[str]
    waiting: list[int]
    rss_mib: list[float]

    @property
    def slower(self) -> float:
        """Median time of accepted plain requests against that at full load."""
        return statistics.median(self.over.done) / statistics.median(self.full.done)

    @property
    def refusal_s(self) -> float:
        """Median time to a refusal."""
        return statistics.median(seconds for seconds, _ in self.over.refused)


async def overloaded(replica: Replica, seconds: float, waiting: Callable[[], int]) -> Overload:
    """Ask a replica that has `SETTINGS` for too much, for so long; `waiting` tells the candidates in its queue."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        full = await _full(client, replica.url, min(10.0, seconds))
        per_s = TIMES * len(full.done) / min(10.0, seconds)
        over, seen, sizes = Answers(), [0], [0.0]
        watching = asyncio.create_task(_watch(replica, waiting, seen, sizes))
        await _flood(client, replica.url, over, per_s, seconds)
        watching.cancel()
        ends = [(await ended(client, replica.url, name))["status"] for name in over.queued]
    return Overload(full, over, per_s, ends, seen, sizes[1:])


async def _full(client: httpx.AsyncClient, url: str, seconds: float) -> Answers:
    """As many at once as are taken, each sent again when it is answered."""
    answers, until = Answers(), time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < until:
            await _ask(client, url, answers, {})

    await asyncio.gather(*(one() for _ in range(CAPACITY // CANDIDATES)))
    return answers


async def _flood(client: httpx.AsyncClient, url: str, answers: Answers, per_s: float, seconds: float) -> None:
    """So many a second whatever is answered, every fifth of them asynchronous."""
    begun, sent, under_way = time.monotonic(), 0, set[asyncio.Task[None]]()
    while (spent := time.monotonic() - begun) < seconds:
        while sent < spent * per_s:
            task = asyncio.create_task(_ask(client, url, answers, {} if sent % 5 else ASYNC))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            sent += 1
        await asyncio.sleep(0.01)
    await asyncio.gather(*under_way)


async def _ask(client: httpx.AsyncClient, url: str, answers: Answers, headers: dict[str, str]) -> None:
    started = time.perf_counter()
    body: dict[str, Any] = asked(random.getrandbits(32), n_candidates=CANDIDATES)
    answer = await client.post(f"{url}/v1/generations", json=body, headers=headers)
    answers.take(answer, time.perf_counter() - started)


async def _watch(replica: Replica, waiting: Callable[[], int], seen: list[int], sizes: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        seen.append(await asyncio.to_thread(waiting))
        sizes.append(rss_mib(replica.process.pid))


def queue_of(folder: Path) -> Callable[[], int]:
    """A look at the candidates that nobody has claimed yet, in the SQLite file of a replica in `folder`."""
    waiting = "SELECT coalesce(sum(candidates), 0) FROM generations WHERE status = 'queued' AND lease_until IS NULL"

    def look() -> int:
        with closing(sqlite3.connect(folder / "data" / "frontrunner.db")) as database:
            return int(database.execute(waiting).fetchone()[0])

    return look


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
