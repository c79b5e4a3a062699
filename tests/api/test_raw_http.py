"""Bytes that no client library sends: refused within the limits of memory and time, and the next request is served."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app.api.middleware import http
from app.api.middleware.http import FREE_BYTES, BodyLimitMiddleware
from app.cli import http_protocol
from app.cli.http_protocol import MOST_HEADERS, MOST_PIPELINED, OVERHEAD_BYTES, RESERVED, Crowd
from tests.api.kit import House, running, until

pytestmark = pytest.mark.slow

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
BODY = b'{"prompt":"x","n_candidates":1,"steps":1}'
MIB = 2**20
PEAK = 1 if sys.platform == "darwin" else 1024
ENDLESS = 96 * MIB
"""Far more than any test may make the server hold."""


@pytest.fixture
def raw(house: House) -> Iterator[socket.socket]:
    with _connected(house) as connection:
        yield connection
    assert house.post(content=BODY, headers={"content-type": "application/json"}).status_code == 200


@contextmanager
def _connected(house: House) -> Iterator[socket.socket]:
    with socket.create_connection(house.address, timeout=20) as connection:
        yield connection


def _flood(raw: socket.socket, start: bytes, piece: bytes) -> bytes:
    """Send `piece` again and again until the server has enough; its answer, which costs it little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK
    pieces = piece * (65_536 // len(piece) + 1)
    try:
        raw.sendall(start)
        for _ in range(ENDLESS // len(pieces)):
            raw.sendall(pieces)
    except ConnectionError:
        pass
    answer = _answer(raw)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK - before < 32 * MIB
    return answer


def _answer(raw: socket.socket) -> bytes:
    """All that comes until the server closes, or has nothing more to say."""
    found = b""
    try:
        while data := raw.recv(65_536):
            found += data
            if b"\r\n\r\n" in found and b"connection: close" not in found.lower():
                raw.settimeout(0.3)
    except (TimeoutError, ConnectionError):
        pass
    return found


def _closes(raw: socket.socket) -> bool:
    """Whether the server closes the connection, or has closed it."""
    try:
        return raw.recv(1) == b""
    except ConnectionError:
        return True


def _is_closed(raw: socket.socket) -> bool:
    raw.settimeout(0.001)
    try:
        return _closes(raw)
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        pytest.param(GET, b"x-name: value\r\n", b"431", id="headers"),
        pytest.param(GET, b"x: y\r\n", b"431", id="tiny-headers"),
        pytest.param(GET + b"x: ", b"a", b"431", id="value"),
        pytest.param(GET, b"x", b"431", id="name"),
        pytest.param(GET + b"x: 1\r\n ", b"a", b"400", id="folded-value"),
        pytest.param(b"GET /healthz?", b"a", b"414", id="query"),
        pytest.param(b"GET /", b"a/", b"414", id="path"),
        pytest.param(b"", b"\r\n", b"431", id="blank-lines"),
        pytest.param(b"", b"A", b"400", id="method"),
        pytest.param(CHUNKED + b"1\r\n{\r\n0\r\n", b"x-name: value\r\n", b"431", id="trailers"),
        pytest.param(CHUNKED + b"1\r\n{\r\n0\r\nx: ", b"a", b"431", id="trailer"),
        pytest.param(CHUNKED + b"1;", b"a", b"431", id="extension-of-a-chunk"),
        pytest.param(CHUNKED, b"0", b"431", id="chunk-size"),
    ],
)
def test_what_never_ends(raw: socket.socket, start: bytes, piece: bytes, status: bytes) -> None:
    head, _, body = _flood(raw, start, piece).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b" "), head
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    assert b'"code": "' in body


def test_a_large_head_is_taken(raw: socket.socket) -> None:
    raw.sendall(GET + b"x: " + b"a" * (OVERHEAD_BYTES - 1000) + b"\r\nconnection: close\r\n\r\n")
    assert _answer(raw).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("more", "status"), [(0, b"200"), (1, b"431")])
def test_the_number_of_headers(raw: socket.socket, more: int, status: bytes) -> None:
    raw.sendall(GET + b"x: y\r\n" * (MOST_HEADERS - 2 + more) + b"connection: close\r\n\r\n")
    assert _answer(raw).startswith(b"HTTP/1.1 " + status)


def test_trailers_are_no_headers(raw: socket.socket) -> None:
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    raw.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + chunk + b"accept: image/png\r\n\r\n")
    answer = _answer(raw)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: application/json" in answer


def test_pipelined_requests_are_answered_in_order(raw: socket.socket) -> None:
    post = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    raw.sendall((GET + b"\r\n" + post) * 8 + b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    answer = b""
    while data := raw.recv(65_536):
        answer += data
    codes = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == [b"200"] * 16 + [b"404"]
    assert answer.count(b"location: ") == 8


def test_endless_pipelining_is_cut(raw: socket.socket) -> None:
    _flood(raw, b"", GET + b"\r\n")
    assert _closes(raw)
    assert MOST_PIPELINED * 3000 < MIB, "what one connection may queue is small"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(CHUNKED + b"zz\r\n", b"400", id="chunk-size-no-number"),
        pytest.param(CHUNKED + b"-1\r\n", b"400", id="chunk-size-negative"),
        pytest.param(CHUNKED + b"f" * 17 + b"\r\n", b"400", id="chunk-size-overflows"),
        pytest.param(CHUNKED + b"1\r\nxxxx\r\n", b"400", id="chunk-longer-than-said"),
        pytest.param(POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx", b"400", id="two-lengths"),
        pytest.param(POST + b"content-length: -1\r\n\r\n", b"400", id="length-negative"),
        pytest.param(POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n", b"400", id="length-overflows"),
        pytest.param(POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400", id="both"),
        pytest.param(POST + b"transfer-encoding: gzip\r\n\r\n", b"400", id="other-encoding"),
        pytest.param(GET + b"x y: 1\r\n\r\n", b"400", id="space-in-a-name"),
        pytest.param(GET + b"x: a\x00b\r\n\r\n", b"400", id="nul-in-a-value"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n", b"400", id="path-no-ascii"),
        pytest.param(b"GET http://[ HTTP/1.1\r\nhost: localhost\r\n\r\n", b"400", id="address-broken"),
        pytest.param(b"CONNECT localhost:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", b"400", id="connect"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", id="http-2"),
        pytest.param(b"GET /healthz HTTP/9.9\r\n\r\n", b"400", id="version"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400", id="tls"),
        pytest.param(GET + b"connection: upgrade, close\r\nupgrade: websocket\r\n\r\n", b"200", id="websocket"),
        pytest.param(GET + b"connection: upgrade, close\r\nupgrade: h2c\r\n\r\n", b"200", id="h2c"),
    ],
)
def test_odd_requests(raw: socket.socket, sent: bytes, status: bytes) -> None:
    raw.sendall(sent)
    assert _answer(raw).startswith(b"HTTP/1.1 " + status + b" ")


def test_a_fault_behind_a_request_that_is_answered(raw: socket.socket) -> None:
    raw.sendall(GET + b"\r\n" + b"\x00" * 9)
    assert _closes(raw) or _answer(raw).count(b"HTTP/1.1 ") <= 2


@pytest.mark.parametrize("sent", [b"G", GET, GET + b"\r\n" + GET], ids=["a-byte", "half-a-head", "behind-a-request"])
def test_a_head_that_does_not_end_in_time(house: House, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.2)
    with _connected(house) as raw:
        raw.sendall(sent)
        while data := raw.recv(65_536):
            assert data.startswith(b"HTTP/1.1 200 ")


def test_slow_headers_do_not_prolong_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.5)
    with _connected(house) as raw:
        raw.sendall(GET)
        sent = 0
        while sent < 1000 and not _is_closed(raw):
            sent += raw.send(b"x")
            time.sleep(0.05)
        assert sent < 1000


def test_the_rest_of_a_refused_body_is_dropped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REFUSED_BODY_DRAIN_S", 0.2)
    with _connected(house) as raw:
        answer = _flood(raw, POST + b"content-length: 100000000\r\n\r\n", b"x")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_text_that_is_too_long_is_refused_before_its_end(tmp_path: Path) -> None:
    with running(tmp_path, max_body_mib=32) as house, _connected(house) as raw:
        raw.sendall(POST + b"content-length: 30000000\r\n\r\n" + b'{"prompt": [' + b"[[[]]]," * (3 * MIB // 7))
        answer = _answer(raw)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b"outside its images" in answer


def test_idle_connections_make_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, max_connections=16) as house, ExitStack() as stack, caplog.at_level(logging.WARNING):
        held = [stack.enter_context(_connected(house)) for _ in range(40)]
        for one in held[::2]:
            one.sendall(b"GET /heal")
        until(lambda: sum(_is_closed(one) for one in held) >= 40 - 16)
        assert house.client.get("/healthz").status_code == 200
        assert house.client.get("/v1/models").status_code == 200
        assert [r.name for r in caplog.records].count("frontrunner.connections") == 1, "told, but not each time"


def test_with_all_connections_busy_health_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, max_connections=16) as house, ExitStack() as stack, caplog.at_level(logging.WARNING):
        house.client.close()
        held = [stack.enter_context(_connected(house)) for _ in range(16)]
        for one in held:
            one.sendall(POST + b"content-length: 100\r\n\r\n{")
        connections = house.app.state.connections
        until(lambda: sum(not one.waits for one in connections) == 16)
        with _connected(house) as raw:
            raw.sendall(GET + b"\r\n")
            assert raw.recv(65_536).startswith(b"HTTP/1.1 200 ")
            raw.sendall(GET.replace(b"/healthz", b"/v1/models") + b"\r\n")
            assert _answer(raw).startswith(b"HTTP/1.1 503 ")
        for one in held:
            one.close()
        until(lambda: not connections)
    assert "all are busy" in caplog.text


def test_descriptors_are_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((256, 256 - RESERVED), (64, 16), (1_000_000, 1000), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert Crowd(1000).most == most


def test_all_bodies_together_are_bounded(tmp_path: Path) -> None:
    sent = POST + b"content-length: %d\r\n\r\n" % (2 * MIB) + b" " * (MIB + 200_000)
    with running(tmp_path, max_body_mib=2, max_bodies_mib=4) as house, ExitStack() as stack:
        held = [stack.enter_context(_connected(house)) for _ in range(12)]
        for one in held:
            one.sendall(sent)
        until(lambda: sum(_refuses(one) for one in held) >= 12 - 3)
        small = house.post(content=BODY, headers={"content-type": "application/json"})
        assert small.status_code == 200, "what is small passes"
        large = BODY + b" " * MIB
        stack.close()
        until(lambda: house.post(content=large, headers={"content-type": "application/json"}).status_code == 200)


def _refuses(raw: socket.socket) -> bool:
    """Whether the server has refused what it was sent; its answer stays to be read."""
    raw.settimeout(0.001)
    try:
        return raw.recv(64, socket.MSG_PEEK).startswith(b"HTTP/1.1 503 ")
    except TimeoutError:
        return False


def test_a_budget_is_given_back() -> None:
    size = FREE_BYTES + 1000

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await gate.wait()

    async def body() -> Message:
        return {"type": "http.request", "body": b"x" * size, "more_body": False}

    async def send(_: Message) -> None:
        pass

    async def run() -> None:
        guard = BodyLimitMiddleware(reads, max_bytes=size, total_bytes=2500, timeout_s=10)
        scope: Scope = {"type": "http", "headers": []}
        for _ in range(3):
            gate.clear()
            tasks = [asyncio.create_task(guard(scope, body, send)) for _ in range(4)]
            while sum(one.done() for one in tasks) < 2:
                await asyncio.sleep(0)
            for _turn in range(20):
                await asyncio.sleep(0)
            done, held = ([one for one in tasks if one.done() is ended] for ended in (True, False))
            assert len(held) == 2
            assert guard.held == 2000
            for one in done:
                error = one.exception()
                assert isinstance(error, HTTPException)
                assert (error.status_code, (error.headers or {})["retry-after"]) == (503, "5")
            gate.set()
            await asyncio.gather(*held)
            assert guard.held == 0

    gate = asyncio.Event()
    asyncio.run(run())
