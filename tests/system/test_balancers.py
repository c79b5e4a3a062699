"""The balancers' files at work: what is refused goes to another replica, what was accepted is never sent twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from tests.proxies import running_haproxy, running_hop, running_nginx
from tests.servers import free_port, until

Balancer: TypeAlias = Callable[[Sequence[int], Path], AbstractContextManager[str]]
BALANCERS = [pytest.param(running_nginx, id="nginx"), pytest.param(running_haproxy, id="haproxy")]

FULL, BREAKS, SERVES, STALLS = "full", "breaks", "serves", "stalls"
PATIENCE_S = 20.0


class Stub(ThreadingHTTPServer):
    """A replica that serves, refuses (503), closes the connection over a POST, or is late in telling its health."""

    daemon_threads = True

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.posts: list[bytes] = []
        self.checks = 0
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A balancer that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/events":
            return self._stream()
        if self.path == "/readyz":
            if self.server.kind == STALLS:
                self.server.go_on.wait(1.5)
            self.server.checks += 1
        return self._answer(200)

    def do_POST(self) -> None:
        self.server.posts.append(self.rfile.read(int(self.headers["content-length"])))
        if self.server.kind == BREAKS:
            self.close_connection = True
            return
        self._answer(503 if self.server.kind == FULL else 200)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-accel-buffering", "no")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(3):
            self.wfile.write(f"2\r\n{number}\n\r\n".encode())
            self.server.go_on.wait(PATIENCE_S)
            self.server.go_on.clear()
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int) -> None:
        body = str(self.server.server_port).encode()
        self.send_response(status)
        if status == 503:
            self.send_header("retry-after", "7")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stubs(*kinds: str) -> Iterator[list[Stub]]:
    with ExitStack() as stack:
        made = [stack.enter_context(Stub(kind)) for kind in kinds]
        for stub in made:
            thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stub.shutdown)
            stack.callback(stub.go_on.set)
        yield made


@contextmanager
def balanced(balancer: Balancer, folder: Path, *ports: int) -> Iterator[httpx.Client]:
    """A client of a balancer that has seen every replica that is ready."""
    with balancer(ports, folder) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        until(lambda: client.get("/healthz").status_code == 200)
        yield client


def many(client: httpx.Client, count: int = 8) -> list[int]:
    """Statuses of as many POSTs at once, each with a body of its own."""

    def post(turn: int) -> int:
        return client.post("/v1/generations", content=f"body {turn}").status_code

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(post, range(count)))


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_post_that_one_replica_refuses_goes_to_the_other(balancer: Balancer, tmp_path: Path) -> None:
    with stubs(FULL, SERVES) as (full, other):
        with balanced(balancer, tmp_path, full.server_port, other.server_port) as client:
            assert many(client) == [200] * 8
        assert full.posts, "the balancer tried the full one"
        assert sorted(other.posts) == [f"body {turn}".encode() for turn in range(8)]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_refusal_of_all_replicas_reaches_the_client_as_it_is(balancer: Balancer, tmp_path: Path) -> None:
    with (
        stubs(FULL, FULL) as (one, two),
        balanced(balancer, tmp_path, one.server_port, two.server_port) as client,
    ):
        for _ in range(4):
            answer = client.post("/v1/generations", content="body")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert one.posts
    assert two.posts


def test_nginx_sends_a_post_again_only_before_anything_was_sent(tmp_path: Path) -> None:
    with (
        stubs(BREAKS, SERVES) as (breaks, other),
        balanced(running_nginx, tmp_path, breaks.server_port, other.server_port) as client,
    ):
        statuses = [client.post("/v1/generations", content=f"body {turn}").status_code for turn in range(4)]
    assert statuses.count(502) == len(breaks.posts) >= 1
    assert not set(breaks.posts) & set(other.posts), "accepted by one, for all that is known, and sent to the other"


@pytest.mark.parametrize("kind", [SERVES, FULL])
@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_replica_that_is_gone_is_passed_over(balancer: Balancer, tmp_path: Path, kind: str) -> None:
    with stubs(kind) as (other,), balanced(balancer, tmp_path, free_port(), other.server_port) as client:
        assert many(client) == [503 if kind == FULL else 200] * 8


@pytest.mark.parametrize("balancer", BALANCERS)
def test_events_arrive_one_by_one_through_two_balancers(balancer: Balancer, tmp_path: Path) -> None:
    with (
        stubs(SERVES, SERVES) as pair,
        balancer([stub.server_port for stub in pair], tmp_path) as inner,
        running_hop(httpx.URL(inner).port or 0, tmp_path) as url,
    ):
        until(lambda: httpx.get(f"{url}/healthz", timeout=PATIENCE_S).status_code == 200)
        with httpx.stream("GET", f"{url}/events", timeout=PATIENCE_S / 2) as answer:
            lines = answer.iter_lines()
            for number in range(3):
                assert next(lines) == str(number), "before the next one is made"
                for stub in pair:
                    stub.go_on.set()


@pytest.mark.soak
def test_haproxy_waits_for_a_replica_that_is_late_in_telling_its_health(tmp_path: Path) -> None:
    with stubs(SERVES) as (replica,), balanced(running_haproxy, tmp_path, replica.server_port) as client:
        replica.kind = STALLS
        before = replica.checks
        until(lambda: replica.checks >= before + 4)
        assert client.get("/healthz").status_code == 200
