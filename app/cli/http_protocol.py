"""uvicorn's httptools protocol with the limits that it lacks: of heads, trailers, pipelines, connections, and time.

Everything here happens before the app knows of a request. What the app may decide, bodies and keys, is its own.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any

import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.middleware.admission import CROWDED
from app.api.middleware.http import LINGER_S
from app.api.problems import from_http

OVERHEAD_BYTES = 65_536
"""Most bytes in a row that are not of a body: a request line with its headers, trailers, extensions of a chunk."""

MOST_HEADERS = 256
"""Of one request."""

HEAD_S = 10.0
"""How long a request line with its headers may take to arrive once it has begun."""

MOST_PIPELINED = 128
"""Requests that one connection may send ahead of their answers."""

RESERVED = 96
"""File descriptors that are kept from connections: for databases, files, webhooks, and the health routes."""

HEALTH_CONNECTIONS = 16
"""Of these, connections that only get answers about health while all others are busy."""

WARN_S = 10.0
"""Least seconds between two warnings of one kind."""

log = logging.getLogger("frontrunner.connections")


class Crowd:
    """What all connections of a server share: how many there may be, and when a warning was last given."""

    def __init__(self, most: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most if soft == resource.RLIM_INFINITY else max(HEALTH_CONNECTIONS, min(most, soft - RESERVED))
        self._warned = -WARN_S

    def warn(self, connections: int, closed: str) -> None:
        """Tell that there are too many, once in a while."""
        if time.monotonic() - self._warned >= WARN_S:
            self._warned = time.monotonic()
            log.warning("%d connections, and %d are allowed: %s", connections, self.most, closed)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. While it waits for a request it may be closed to make room for another one."""

    def __init__(self, crowd: Crowd, config: uvicorn.Config, **given: Any) -> None:
        super().__init__(config, **given)
        self._crowd = crowd
        self._crowded = False
        self._refused = False
        self.url = b""
        self._in_head = False
        self._overhead = 0
        self._head_due: float | None = None
        self._waiting_since = 0.0

    @property
    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See Protocol."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._close_in(self.timeout_keep_alive)
        if len(self.connections) > self._crowd.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        for start in range(0, len(data), OVERHEAD_BYTES):
            if self._refused or self.transport.is_closing():
                return
            piece = data[start : start + OVERHEAD_BYTES]
            self._overhead += len(piece)
            super().data_received(piece)
            if self._overhead > OVERHEAD_BYTES:
                self._too_long()
        if self.waits and not self._refused and not self.transport.is_closing():
            now = self.loop.time()
            self._head_due = self._head_due or now + HEAD_S
            self._close_in(self._head_due - now)

    # What httptools calls

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head, self._overhead = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. Trailers are dropped: they must not join the headers of a request that is being answered."""
        if not self._in_head:
            return
        if len(self.headers) == MOST_HEADERS:
            self._refuse(431, f"more than {MOST_HEADERS} headers")
            raise ValueError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refuse(400, f"more than {MOST_PIPELINED} requests ahead of their answers")
            raise ValueError
        if self._crowded and len(self.connections) > self._crowd.most:
            self.scope["state"][CROWDED] = True
        super().on_headers_complete()
        self._in_head, self._overhead, self._head_due = False, 0, None

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._overhead = 0
        super().on_body(body)

    # What uvicorn calls

    def on_response_complete(self) -> None:
        """Read on only when nothing is owed any more; the body of a request in progress is read as it is asked for."""
        self._waiting_since = self.loop.time()
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        elif self._in_head and not self.transport.is_closing():
            self._close_in(HEAD_S)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what cannot be parsed."""
        self._refuse(400, "the request is not valid HTTP")

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: clients may offer to upgrade, and are answered in HTTP/1.1."""

    # Limits

    def _make_room(self) -> None:
        """Close the connection that has waited longest; with all of them busy this one gets answers about health."""
        waiting = [
            one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self and one.waits
        ]
        if waiting:
            self._crowd.warn(len(self.connections), "the one that waited longest is closed")
            oldest = min(waiting, key=lambda one: one._waiting_since)
            self.connections.discard(oldest)
            oldest.transport.close()
            return
        self._crowd.warn(len(self.connections), "all are busy, so requests of others are refused")
        self._crowded = True
        if len(self.connections) > self._crowd.most + HEALTH_CONNECTIONS:
            self.transport.abort()

    def _too_long(self) -> None:
        if self._in_head and 2 * len(self.url or b"") > self._overhead:
            self._refuse(414, f"the address is longer than {OVERHEAD_BYTES} bytes")
        else:
            self._refuse(431, f"headers or trailers are longer than {OVERHEAD_BYTES} bytes")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer if an answer is due, then drop what still comes for a moment before the connection closes."""
        if self._refused:
            return
        self._refused = True
        due = self.waits if self._in_head or self.cycle is None else not self.cycle.response_started
        if not due or self.pipeline:
            self.transport.abort()
            return
        self.transport.write(_raw(from_http(status, detail, "", {"connection": "close"})))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._close_in(LINGER_S)

    def _close_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def _raw(answer: Response) -> bytes:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body)
