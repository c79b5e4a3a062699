"""The child process through which a front reaches a Ray cluster.

Ray ends a process whose cluster is gone, after a minute in which every call hangs. In a child this ends no front.
Frames on the socket are those of `frames`. Arguments: FD ADDRESS APPLICATION.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

from app.engine.cluster.replicas.frames import Frame, read_frame, write_frame
from app.engine.cluster.replicas.presence import WATCHERS
from app.engine.cluster.replicas.wire import AnswerKind, RequestKind

PING_EVERY_S = 2.0
"""Seconds between looks at the application."""

RETRY_S = 0.5
"""Seconds after an error, such as that of a controller that starts again."""

LEAVE_S = 0.5
"""Seconds at the end in which cancellations reach the workers."""

PING_TIMEOUT_S = 10.0
"""Seconds after which a cluster that does not answer is gone."""


class Bridge:
    """Passes requests of a front to an application, and the answers back."""

    def __init__(self, handle: Any, send: Callable[[Frame], None]) -> None:
        self._handle = handle.options(stream=True)
        self._send = send
        self._running: dict[int, asyncio.Task[None]] = {}

    def receive(self, frame: Frame) -> None:
        """Take a frame of the front."""
        if frame.kind == "ask":
            task = asyncio.create_task(self._ask(frame.number, *frame.value))
            self._running[frame.number] = task
            task.add_done_callback(lambda _: self._running.pop(frame.number, None))
        elif frame.kind == "drop" and frame.number in self._running:
            self._running[frame.number].cancel()

    async def close(self) -> None:
        """Cancel what runs: the front is gone."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
            await asyncio.sleep(LEAVE_S)

    async def _ask(self, number: int, to: str, kind: RequestKind, data: bytes) -> None:
        answers, last = None, False
        try:
            answers = self._handle.answer.remote(to, kind, data)
            async for each in answers:
                last = not each.startswith(AnswerKind.STEP.value)
                self._send(Frame("answer", number, each))
        except asyncio.CancelledError:
            if answers is not None and not last:
                answers.cancel()
            raise
        except Exception as error:
            self._send(Frame("lost", number, type(error).__name__))
        else:
            self._send(Frame("end", number))


async def _run(fd: int, address: str, application: str) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
    loop = asyncio.get_running_loop()

    def send(frame: Frame) -> None:
        write_frame(writer, frame)

    try:
        handle = await asyncio.to_thread(_connect, address, application)
    except Exception as error:
        send(Frame("problem", value=_why(error)))
        await writer.drain()
        return

    def report(ids: list[str]) -> None:
        loop.call_soon_threadsafe(send, Frame("replicas", value=ids))

    WATCHERS.append(report)
    send(Frame("connected"))
    bridge = Bridge(handle, send)
    watching = asyncio.create_task(_watch(application, send))
    while (frame := await read_frame(reader)) is not None:
        bridge.receive(frame)
    watching.cancel()
    await bridge.close()


def _connect(address: str, application: str) -> Any:
    """The handle of the application. Raises what Ray raises."""
    import ray
    from ray import serve

    ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
    return serve.get_app_handle(application)


def _why(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return "Ray is not installed: install frontrunner[cluster]"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]


async def _watch(application: str, send: Callable[[Frame], None]) -> None:
    """Report the application's state.

    Ends the process when the cluster does not answer.
    """
    from ray import serve

    known, answered = None, monotonic()
    while True:
        try:
            status = await asyncio.wait_for(asyncio.to_thread(serve.status), PING_TIMEOUT_S)
        except Exception as error:
            if monotonic() - answered < PING_TIMEOUT_S:
                await asyncio.sleep(RETRY_S)
                continue
            send(Frame("problem", value=f"the cluster does not answer ({type(error).__name__})"))
            await asyncio.sleep(RETRY_S)
            os._exit(1)
        answered = monotonic()
        found = status.applications.get(application)
        state = (str(found.status.value), found.message) if found is not None else ("DELETED", "")
        if state != known:
            known = state
            send(Frame("state", value=state))
        await asyncio.sleep(PING_EVERY_S)


def main() -> None:
    """Run until the front closes the socket."""
    fd, address, application = sys.argv[1:]
    asyncio.run(_run(int(fd), address, application))
    os._exit(0)  # Ray's own end waits for a cluster that may be gone


if __name__ == "__main__":
    main()
