"""How a front reaches the replicas of an application: by a child process.

Owns the child and the requests in flight. A child that ends is started again; what was asked is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import count

from app.engine.cluster.replicas.frames import Frame, read_frame, write_frame
from app.engine.cluster.replicas.wire import RequestKind
from app.engine.cluster.workers import WorkerLost

log = logging.getLogger(__name__)

RESTART_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before a child starts again, by the failed connections before it."""

END_S = 5.0
"""Seconds that a child has to end before it is killed."""


@dataclass(slots=True)
class LinkState:
    """What is known of the cluster.

    `application` is Serve's word for its state, such as `RUNNING`.
    """

    connected: bool = False
    application: str = ""
    problem: str = "connecting to the cluster"


@dataclass(slots=True, eq=False)
class _Asked:
    to: str
    answers: asyncio.Queue[bytes | WorkerLost | None] = field(default_factory=asyncio.Queue)


class Link:
    """Requests to replicas of an `application` of the Ray cluster at `address`.

    Use it on the loop of `start`. `on_replicas` receives the ids of those that run, whenever they change; none while
    the cluster is away.
    """

    def __init__(self, address: str, application: str) -> None:
        self.application = application
        self.state = LinkState()
        self.on_replicas: Callable[[frozenset[str]], None] = lambda _: None
        self._address = address
        self._asked: dict[int, _Asked] = {}
        self._numbers = count(1)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to connect; returns at once."""
        self._task = asyncio.create_task(self._keep_connected(), name=f"link to {self.application}")

    async def close(self) -> None:
        """End the child; what was asked is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._forget_all()

    async def ask(self, to: str, kind: RequestKind, data: bytes) -> AsyncGenerator[bytes, None]:
        """The answers of a replica, or of any if `to` is empty. Raises WorkerLost."""
        if self._writer is None:
            raise WorkerLost(self.state.problem)
        number, asked = next(self._numbers), _Asked(to)
        self._asked[number] = asked
        write_frame(self._writer, Frame("ask", number, (to, kind, data)))
        try:
            while (found := await asked.answers.get()) is not None:
                if isinstance(found, WorkerLost):
                    raise found
                yield found
        finally:
            if self._asked.pop(number, None) is not None and self._writer is not None:
                write_frame(self._writer, Frame("drop", number))

    def tell(self, to: str, kind: RequestKind, data: bytes) -> None:
        """Ask without waiting for answers."""
        if self._writer is not None:
            write_frame(self._writer, Frame("ask", next(self._numbers), (to, kind, data)))

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                await self._one_child()
            except Exception:
                log.exception("the connection to the cluster failed", extra={"application": self.application})
            failures = 0 if self.state.connected else failures + 1
            if self.state.connected:
                log.error("the cluster is away: %s", self.state.problem, extra={"application": self.application})
            self._forget_all()
            await asyncio.sleep(RESTART_S[min(failures, len(RESTART_S) - 1)])

    async def _one_child(self) -> None:
        """Run a child to its end."""
        mine, its = socket.socketpair()
        with its:
            try:
                child = await self._start_child(its.fileno())
            except BaseException:
                mine.close()
                raise
        try:
            reader, self._writer = await asyncio.open_connection(sock=mine)
            while (frame := await read_frame(reader)) is not None:
                self._receive(frame)
        finally:
            (mine if self._writer is None else self._writer).close()
            self._writer = None
            await _end(child)

    async def _start_child(self, fd: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.engine.cluster.replicas.bridge",
            str(fd),
            self._address,
            self.application,
            pass_fds=[fd],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **os.environ},
            start_new_session=True,
        )

    def _receive(self, frame: Frame) -> None:
        state, asked = self.state, self._asked.get(frame.number)
        if frame.kind == "answer" and asked is not None:
            asked.answers.put_nowait(frame.value)
        elif frame.kind == "end" and asked is not None:
            asked.answers.put_nowait(None)
            del self._asked[frame.number]
        elif frame.kind == "lost" and asked is not None:
            asked.answers.put_nowait(WorkerLost(f"worker {asked.to}: {frame.value}"))
            del self._asked[frame.number]
        elif frame.kind == "connected":
            state.connected, state.problem = True, ""
        elif frame.kind == "replicas":
            self.on_replicas(frozenset(frame.value))
        elif frame.kind == "state":
            state.application, state.problem = frame.value
        elif frame.kind == "problem":
            if state.problem != frame.value:
                log.warning("the cluster cannot be used: %s", frame.value, extra={"application": self.application})
            state.problem = frame.value

    def _forget_all(self) -> None:
        """Fail what was asked of a child that has ended."""
        self.state.connected, self.state.application = False, ""
        self.state.problem = self.state.problem or "the connection to the cluster ended"
        for asked in self._asked.values():
            asked.answers.put_nowait(WorkerLost(f"worker {asked.to}: {self.state.problem}"))
        self._asked.clear()
        self.on_replicas(frozenset())


async def _end(child: asyncio.subprocess.Process) -> None:
    """Wait for a child whose socket is closed; kill it if it stays."""
    try:
        async with asyncio.timeout(END_S):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
