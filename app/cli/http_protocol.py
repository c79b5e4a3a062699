"""uvicorn's httptools protocol with limits for heads, trailers and connections.

Owns the limits that apply before the app receives a request. The app owns those of bodies and keys.
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
from app.api.middleware.http import REFUSED_BODY_DRAIN_S
from app.api.problems import from_http

OVERHEAD_BYTES = 65_536
"""Maximum consecutive bytes outside a body.

They include a request line with its headers, trailers, and chunk extensions.
"""

MOST_HEADERS = 256
"""Maximum headers of a request."""

HEAD_S = 10.0
"""Maximum seconds from the first byte of a request line to the end of its headers."""

MOST_PIPELINED = 128
"""Maximum requests that one connection may send ahead of their responses."""

RESERVED = 96
"""File descriptors reserved for databases, files, webhooks and the health routes."""

HEALTH_CONNECTIONS = 16
"""Extra connections, for health routes only, while all others are busy."""

WARN_S = 10.0
"""Minimum seconds between two warnings."""

log = logging.getLogger("frontrunner.connections")


class Crowd:
    """State shared by all connections of a server: their limit and the last warning."""

    def __init__(self, most: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most if soft == resource.RLIM_INFINITY else max(HEALTH_CONNECTIONS, min(most, soft - RESERVED))
        self._warned = -WARN_S

    def warn(self, connections: int, closed: str) -> None:
        """Log that the limit is exceeded, at most once per `WARN_S`."""
        if time.monotonic() - self._warned >= WARN_S:
            self._warned = time.monotonic()
            log.warning("%d connections exceed the limit of %d: %s", connections, self.most, closed)


class LimitedProtocol(HttpToolsProtocol):
    """One connection; while idle it may be closed to make room for another one."""

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
        """Whether no response is in progress."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    # called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See Protocol."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._close_in(self.timeout_keep_alive)
        if len(self.connections) > self._crowd.most:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        step = OVERHEAD_BYTES if self.waits else len(data)  # pieces of a body would be copied to be joined again
        for start in range(0, len(data), step):
            if self._refused or self.transport.is_closing():
                return
            piece = data[start : start + step]
            self._overhead += len(piece)
            super().data_received(piece)
            if self._overhead > OVERHEAD_BYTES:
                self._too_long()
        if self.waits and not self._refused and not self.transport.is_closing():
            now = self.loop.time()
            self._head_due = self._head_due or now + HEAD_S
            self._close_in(self._head_due - now)

    # called by httptools

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head, self._overhead = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools. Drops trailers: they must not join the headers of a request."""
        if not self._in_head:
            return
        if len(self.headers) == MOST_HEADERS:
            self._refuse(431, f"the request has more than {MOST_HEADERS} headers: send fewer")
            raise ValueError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refuse(400, f"more than {MOST_PIPELINED} requests are pipelined: wait for responses")
            raise ValueError
        if self._crowded and len(self.connections) > self._crowd.most:
            self.scope["state"][CROWDED] = True
        super().on_headers_complete()
        self._in_head, self._overhead, self._head_due = False, 0, None

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._overhead = 0
        super().on_body(body)

    # called by uvicorn

    def on_response_complete(self) -> None:
        """Resume reading only after all pipelined responses.

        The app reads the body of a request in progress on demand.
        """
        self._waiting_since = self.loop.time()
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        elif self._in_head and not self.transport.is_closing():
            self._close_in(HEAD_S)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Respond to a request that cannot be parsed."""
        self._refuse(400, "the request is not valid HTTP")

    def _unsupported_upgrade_warning(self) -> None:
        """Suppress the warning: clients may offer an upgrade and get HTTP/1.1."""

    # limits

    def _make_room(self) -> None:
        """Close the longest idle connection; if none, limit this one to health routes."""
        waiting = [
            one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self and one.waits
        ]
        if waiting:
            self._crowd.warn(len(self.connections), "the longest idle one is closed")
            oldest = min(waiting, key=lambda one: one._waiting_since)
            self.connections.discard(oldest)
            oldest.transport.close()
            return
        self._crowd.warn(len(self.connections), "all are busy, so new requests are rejected")
        self._crowded = True
        if len(self.connections) > self._crowd.most + HEALTH_CONNECTIONS:
            self.transport.abort()

    def _too_long(self) -> None:
        if self._in_head and 2 * len(self.url or b"") > self._overhead:
            self._refuse(414, f"the URL exceeds the limit of {OVERHEAD_BYTES} bytes: shorten it")
        else:
            self._refuse(431, f"headers or trailers exceed the limit of {OVERHEAD_BYTES} bytes: send fewer")

    def _refuse(self, status: int, detail: str) -> None:
        """Respond if a response is due, then discard input until the connection closes."""
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
        self._close_in(REFUSED_BODY_DRAIN_S)

    def _close_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def _raw(answer: Response) -> bytes:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body)
