"""Hostile clients all at once, and what an honest one sees meanwhile: the slowest `/healthz`, and how memory grows.

`python -m tests.bench.attacks` runs it alone. The attackers are a process of their own and take their share of the
cores. Memory is the resident size of the service and its children.
"""

from __future__ import annotations

import argparse
import base64
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import httpx
from PIL import Image

from app.cli.local_server import running_service
from tests.bench.kit import Figure, table
from tests.hostile import saved, scans

SECONDS = 40.0
PAUSE_S = 0.05
SLOWEST_S, GROWTH_MIB = 0.5, 500.0
MIB = 2**20

Attack = Callable[[tuple[str, int], float], None]


def attacks(seconds: float = SECONDS, names: Sequence[str] = ()) -> list[Figure]:
    """The attacks with these names, or all, against a service with the embedded models, for so long. Linux."""
    with running_service() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        good = {"prompt": "x", "images": [_uri(saved(Image.new("RGB", (64, 64)), "PNG"))]}
        for _ in range(3):
            client.post("/v1/rank", json=good).raise_for_status()
        service = _child()
        idle, answers, sizes = _resident(service), list[float](), list[float]()
        ranked: list[float] = []
        command = [sys.executable, "-m", "tests.bench.attacks", "--at", url, "--for", str(seconds)]
        attackers = subprocess.Popen([*command, "--only", *(names or ATTACKS)])
        ranking = threading.Thread(target=lambda: ranked.extend(_ranked(url, good, attackers)))
        ranking.start()
        while attackers.poll() is None:
            answers.append(_seconds(lambda: _healthy(_address(url))))
            sizes.append(_resident(service))
            time.sleep(PAUSE_S)
        ranking.join()
    late = sorted(answers)[len(answers) * 99 // 100]
    detail = {
        "seconds": seconds,
        "of_100_the_99th": round(late, 3),
        "asked": len(answers),
        "load": round(os.getloadavg()[0], 1),
        "idle_mib": round(idle),
    }
    return [
        Figure("slowest /healthz under attacks", max(answers), "s", at_most=SLOWEST_S, detail=detail),
        Figure("memory under attacks, above idle", max(sizes) - idle, "MiB", at_most=GROWTH_MIB, detail=detail),
        Figure("slowest ranking of a small image", max(ranked), "s", detail={"answered": len(ranked)}),
    ]


def _ranked(url: str, body: object, attackers: subprocess.Popen[bytes]) -> Iterator[float]:
    """Seconds of each small ranking that is accepted while the attackers run."""
    with httpx.Client(base_url=url, timeout=300) as client:
        while attackers.poll() is None:
            started = time.perf_counter()
            if client.post("/v1/rank", json=body).status_code == 200:
                yield time.perf_counter() - started
            time.sleep(4 * PAUSE_S)


def _address(url: str) -> tuple[str, int]:
    target = httpx.URL(url)
    return target.host, target.port or 80


def _healthy(address: tuple[str, int]) -> None:
    """One `/healthz` on a connection of its own."""
    with closing(HTTPConnection(*address, timeout=60)) as connection:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _parents() -> dict[int, int]:
    """Of every process, by id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def _child() -> int:
    """The one child of this process: the service."""
    (child,) = (pid for pid, parent in _parents().items() if parent == os.getpid())
    return child


def _resident(service: int) -> float:
    """MiB of a process and its descendants."""
    parents, pages = _parents(), 0
    for pid in parents:
        ancestor = pid
        while ancestor not in {0, service}:
            ancestor = parents.get(ancestor, 0)
        if ancestor == service:
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _request(path: str, length: int) -> bytes:
    headers = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {length}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode()


def _send(address: tuple[str, int], data: bytes, patience_s: float) -> None:
    """Send, look at an answer for so long, and hang up."""
    with suppress(OSError), socket.create_connection(address, timeout=patience_s) as connection:
        connection.sendall(data)
        while connection.recv(65536):
            pass


def _repeated(data: bytes, patience_s: float) -> Attack:
    def attack(address: tuple[str, int], until: float) -> None:
        while time.monotonic() < until:
            _send(address, data, patience_s)
            time.sleep(0.01)

    return attack


def _scan_bombs() -> Attack:
    """Two senders hang up after two seconds."""
    body = b'{"prompt":"x","images":["%s"]}' % _uri(scans(6324, 1200)).encode()
    return _repeated(_request("/v1/rank", len(body)) + body, 2.0)


def _nested_json() -> Attack:
    """31 MB that become millions of lists."""
    body = b'{"prompt":[' + b"[[[]]]," * 4_500_000 + b"1]}"
    return _repeated(_request("/v1/generations", len(body)) + body, 30.0)


def _unfinished_bodies() -> Attack:
    """A body of 33 MB that stops within an image: text of this size would be refused at 2 MiB."""
    start = b'{"prompt":"x","images":["data:image/png;base64,'
    return _repeated(_request("/v1/rank", 33_000_000) + start + b"A" * 32_000_000, 70.0)


def _many_pixels() -> Attack:
    """Two pictures of 40 megapixels in one request."""
    uri = _uri(saved(Image.new("RGB", (6324, 6324), "red"), "PNG")).encode()
    body = b'{"prompt":"x","images":["%s","%s"]}' % (uri, uri)
    return _repeated(_request("/v1/rank", len(body)) + body, 120.0)


ATTACKS: dict[str, tuple[Callable[[], Attack], int]] = {
    "scan bombs": (_scan_bombs, 2),
    "nested JSON": (_nested_json, 1),
    "unfinished bodies": (_unfinished_bodies, 60),
    "many pixels": (_many_pixels, 4),
}
"""By name: how it is prepared, and how many clients do it at once."""


def _attack(url: str, seconds: float, names: list[str]) -> None:
    prepared = [(ATTACKS[name][0](), ATTACKS[name][1]) for name in names]
    until = time.monotonic() + seconds
    for attack, clients in prepared:
        for _ in range(clients):
            threading.Thread(target=attack, args=(_address(url), until), daemon=True).start()
    time.sleep(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attacks", description=__doc__)
    parser.add_argument("--at", help="attack this address, and measure nothing")
    parser.add_argument("--for", dest="seconds", type=float, default=SECONDS)
    parser.add_argument("--only", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    asked = parser.parse_args()
    if asked.at:
        _attack(asked.at, asked.seconds, asked.only)
    else:
        print(table(attacks(asked.seconds, asked.only)))
