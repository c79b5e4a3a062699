"""The control plane with a device that costs nothing: what one front can do, and what a generation costs the database.

`python -m tests.bench.control`. Load comes from this process, over keep-alive connections. With `--before`, a checkout
of other code is measured in turns with this one: load of other processes then changes both, and ratios less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pydantic_core

from tests.bench.free_device import ROOT, serving
from tests.bench.kit import RESULTS, Figure, machine, store, table
from tests.servers import running_postgresql

WEIGHTS = "free device"
STORES = ("sqlite", "postgresql")

GAIN, MOST_WRITES = 3.0, 4.0
"""What was asked: the least ratio to the code before, and the most writes of a large generation."""

SETTINGS = {"MAX_QUEUED_CANDIDATES": "4096", "MAX_CANDIDATES": "64", "PRUNING": "off"}


@dataclass(frozen=True)
class Load:
    """Plain requests of one size from so many connections."""

    name: str
    candidates: int
    steps: int
    connections: int


LOADS = (Load("N = 1", 1, 4, 16), Load("N = 16", 16, 20, 8))

LARGE, LARGE_CALL_S = Load("64 x 50", 64, 50, 1), 0.02
"""One large generation after another, on a device that takes its time: it counts what progress costs."""


@dataclass(frozen=True)
class Seen:
    """What a load came to.

    Answers, wall seconds, CPU seconds of the front, writes that it asked the database for, commits of PostgreSQL. The
    commits include what a process asks once a second, and count writes that share one once.
    """

    answers: int
    seconds: float
    cpu_s: float
    writes: int
    commits: int


class Connection:
    """HTTP/1.1 by hand: a client library would take as long as the server."""

    def __init__(self, url: str, load: Load) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        body = pydantic_core.to_json({"prompt": "a red apple", "n_candidates": load.candidates, "steps": load.steps})
        head = f"POST /v1/generations HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def run(self, until: float) -> int:
        """Answers until then, one after the other."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        answers = 0
        while time.perf_counter() < until:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            body = await reader.readexactly(length)
            assert head.startswith("http/1.1 200"), (head, body)
            answers += 1
        writer.close()
        return answers


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def commits(database: str | None) -> int:
    """Transactions that a PostgreSQL database has committed so far."""
    if database is None:
        return 0
    connection = await asyncpg.connect(database)
    try:
        await asyncio.sleep(1.1)  # servers report their counts once a second
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


def writes(url: str) -> int:
    """Database writes of a front so far."""
    told = httpx.get(f"{url}/metrics", timeout=30).text
    counted = re.findall(r'^frontrunner_store_calls_total\{[^}]*"database_write"[^}]*\} (\S+)$', told, re.MULTILINE)
    return round(sum(map(float, counted)))


@contextmanager
def fronts(kind: str, code: Path, call_s: float = 0.0) -> Iterator[tuple[str, int, str | None]]:
    """A front on a store of this kind: its address, process id, and PostgreSQL database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="frontrunner-control-")))
        database = stack.enter_context(running_postgresql()).database() if kind == "postgresql" else None
        settings = SETTINGS | ({"DATABASE_URL": database} if database else {})
        url, pid = stack.enter_context(serving(folder, settings, code, call_s))
        yield url, pid, database


async def run(url: str, pid: int, database: str | None, load: Load, seconds: float) -> Seen:
    """Keep one front busy for so long."""
    until = time.perf_counter() + min(2.0, seconds / 4)
    await asyncio.gather(*(Connection(url, load).run(until) for _ in range(load.connections)))
    before, written = await commits(database), writes(url)
    cpu, started = cpu_s(pid), time.perf_counter()
    until = started + seconds
    answers = sum(await asyncio.gather(*(Connection(url, load).run(until) for _ in range(load.connections))))
    took, used, wrote = time.perf_counter() - started, cpu_s(pid) - cpu, writes(url) - written
    return Seen(answers, took, used, wrote, await commits(database) - before)


def measured(kind: str, code: Path, seconds: float) -> dict[str, float]:
    """The figures of one store and code, by name."""
    found = dict[str, float]()
    with fronts(kind, code) as front:
        for load in LOADS:
            seen = asyncio.run(run(*front, load, seconds))
            name = f"{kind}, {load.name}"
            found[f"{name}: generations a second"] = seen.answers / seen.seconds
            found[f"{name}: candidates a second"] = seen.answers * load.candidates / seen.seconds
            found[f"{name}: CPU ms a candidate"] = 1000 * seen.cpu_s / seen.answers / load.candidates
            if kind == "postgresql":
                found[f"{name}: transactions a generation"] = seen.commits / seen.answers
    with fronts(kind, code, LARGE_CALL_S) as front:
        seen = asyncio.run(run(*front, LARGE, seconds))
        found[f"{kind}, {LARGE.name}: seconds"] = seen.seconds / seen.answers
        found[f"{kind}, {LARGE.name}: writes a generation"] = seen.writes / seen.answers
        if kind == "postgresql":
            found[f"{kind}, {LARGE.name}: transactions a generation"] = seen.commits / seen.answers
    return found


def figures(now: Sequence[Mapping[str, float]], before: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Medians over rounds, and medians of the ratios of rounds."""
    made = []
    for name in now[0]:
        detail: dict[str, Any] = {"runs": len(now)}
        most = MOST_WRITES if name.endswith("writes a generation") else None
        made.append(Figure(name, median(each[name] for each in now), at_most=most, detail=detail))
        if not before:
            continue
        was = median(each[name] for each in before)
        ratios = [each[name] / other[name] for each, other in zip(now, before, strict=True) if other[name]]
        asked = (
            GAIN if name.endswith((LOADS[0].name + ": generations a second", "N = 16: candidates a second")) else None
        )
        detail |= {"before": round(was, 3), "ratios": [round(ratio, 3) for ratio in ratios]}
        made.append(Figure(f"{name}, ratio", median(ratios), "the code before", at_least=asked, detail=detail))
    return made


def main() -> None:
    """Measure, print, and store with `--keep`."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stores", nargs="*", choices=STORES, default=STORES)
    parser.add_argument("--before", type=Path, help="a checkout of other code, measured in turns")
    parser.add_argument("--keep", action="store_true", help="write results/control.json")
    asked = parser.parse_args()
    for kind in asked.stores:
        now, before = list[dict[str, float]](), list[dict[str, float]]()
        for _ in range(asked.rounds):
            if asked.before is not None:
                before.append(measured(kind, asked.before.resolve(), asked.seconds))
            now.append(measured(kind, ROOT, asked.seconds))
        made = figures(now, before)
        print(table(made), flush=True)
        if asked.keep:
            store(RESULTS / "control.json", made, machine(), WEIGHTS)


if __name__ == "__main__":
    main()
