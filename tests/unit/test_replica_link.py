"""The way from a front to replicas: the child process and its messages, without Ray."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.engine.cluster.replicas import bridge as bridges
from app.engine.cluster.replicas import link as links
from app.engine.cluster.replicas.bridge import Bridge
from app.engine.cluster.replicas.frames import Frame, read_frame, write_frame
from app.engine.cluster.replicas.link import Link
from app.engine.cluster.workers import WorkerLost

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Child:
    """The child's end of the socket, in this process. It ends once the front closes the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        while await self.reader.read(1000):
            pass
        self.writer.close()
        self.ended.set()
        return 0

    async def asked(self) -> Frame:
        frame = await read_frame(self.reader)
        assert frame is not None
        return frame

    def send(self, frame: Frame) -> None:
        write_frame(self.writer, frame)


class Children:
    """Starts children for a link; the first `failures` do not start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(links, "RESTART_S", (0.01,))
        monkeypatch.setattr(asyncio, "create_subprocess_exec", self._start)
        self.made: list[Child] = []
        self.failures = 0

    async def _start(self, *_: str, pass_fds: list[int], **__: object) -> Child:
        if self.failures:
            self.failures -= 1
            raise BlockingIOError("no process can be started now")
        copy = socket.socket(fileno=socket.dup(pass_fds[0]))
        self.made.append(Child(*await asyncio.open_connection(sock=copy)))
        return self.made[-1]

    async def next(self, number: int) -> Child:
        await until(lambda: len(self.made) == number)
        return self.made[-1]


async def answers(link: Link, to: str = "r0") -> list[bytes]:
    return [each async for each in link.ask(to, "call", b"x")]


async def connected(monkeypatch: pytest.MonkeyPatch) -> tuple[Children, Link, Child]:
    """A link whose first child has reached the cluster."""
    children = Children(monkeypatch)
    link = Link("head:1", "frontrunner-fake")
    link.start()
    child = await children.next(1)
    child.send(Frame("connected"))
    await until(lambda: link.state.connected)
    return children, link, child


async def test_requests_reach_the_child_and_answers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(monkeypatch)
    link = Link("head:1", "frontrunner-fake")
    seen: list[frozenset[str]] = []
    link.on_replicas = seen.append
    link.start()
    child = await children.next(1)
    child.send(Frame("connected"))
    child.send(Frame("state", value=("RUNNING", "")))
    child.send(Frame("replicas", value=["r0", "r1"]))
    await until(lambda: bool(seen))
    assert (link.state.connected, link.state.application) == (True, "RUNNING")
    asking = asyncio.create_task(answers(link))
    asked = await child.asked()
    assert (asked.kind, asked.value) == ("ask", ("r0", "call", b"x"))
    for kind, value in (("answer", b"1"), ("answer", b"2"), ("end", None)):
        child.send(Frame(kind, asked.number, value))  # type: ignore[arg-type]
    assert await asking == [b"1", b"2"]
    asking = asyncio.create_task(answers(link))
    child.send(Frame("lost", (await child.asked()).number, "RayActorError"))
    with pytest.raises(WorkerLost, match="RayActorError"):
        await asking
    asking = asyncio.create_task(answers(link))
    number = (await child.asked()).number
    asking.cancel()
    assert await child.asked() == Frame("drop", number)
    await link.close()
    assert child.ended.is_set()
    assert seen == [frozenset({"r0", "r1"}), frozenset()]


@pytest.mark.parametrize("end", ["closed", "garbage", "wrong"])
async def test_a_child_that_ends_or_talks_nonsense_is_replaced(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    children, link, child = await connected(monkeypatch)
    asking = asyncio.create_task(answers(link))
    await child.asked()
    children.failures = 2
    if end == "closed":
        child.writer.close()
    elif end == "garbage":
        child.writer.write(b"\xff" * 100)
    else:
        child.send(Frame("replicas", value=7))
    with pytest.raises(WorkerLost):
        await asking
    second = await children.next(2)
    assert not link.state.connected
    with pytest.raises(WorkerLost):
        await answers(Link("head:1", "frontrunner-fake"))
    second.send(Frame("connected"))
    await until(lambda: link.state.connected)
    await link.close()


async def test_what_is_asked_while_the_link_closes_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    _, link, child = await connected(monkeypatch)
    asking = asyncio.create_task(answers(link))
    await child.asked()
    await link.close()
    with pytest.raises(WorkerLost):
        await asyncio.wait_for(asking, 30)


class Handle:
    """A handle of Serve whose answers come from a queue. `cancelled` counts cancelled requests."""

    def __init__(self) -> None:
        self.given = asyncio.Queue[bytes | Exception | None]()
        self.cancelled = 0
        self.answer = self

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, *_: Any) -> Handle:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._answers()

    async def _answers(self) -> AsyncIterator[bytes]:
        while (found := await self.given.get()) is not None:
            if isinstance(found, Exception):
                raise found
            yield found

    def cancel(self) -> None:
        self.cancelled += 1


async def test_requests_that_nobody_waits_for_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a front that has died; not one that has answered."""
    monkeypatch.setattr(bridges, "LEAVE_S", 0.0)
    handle, sent = Handle(), list[Frame]()
    bridge = Bridge(handle, sent.append)
    ask = ("r0", "segment", b"")
    bridge.receive(Frame("ask", 1, ask))
    handle.given.put_nowait(b"s-step")
    await until(lambda: len(sent) == 1)
    bridge.receive(Frame("drop", 1))
    await until(lambda: handle.cancelled == 1)
    bridge.receive(Frame("ask", 2, ask))
    handle.given.put_nowait(b"r-result")
    await until(lambda: len(sent) == 2)
    bridge.receive(Frame("drop", 2))
    bridge.receive(Frame("ask", 3, ask))
    handle.given.put_nowait(None)
    await until(lambda: len(sent) == 3)
    bridge.receive(Frame("ask", 4, ask))
    handle.given.put_nowait(OSError("secret"))
    await until(lambda: len(sent) == 4)
    assert handle.cancelled == 1
    assert sent[2:] == [Frame("end", 3), Frame("lost", 4, "OSError")]
    bridge.receive(Frame("ask", 5, ask))
    await asyncio.sleep(0)
    await bridge.close()
    assert handle.cancelled == 2


async def test_a_request_that_cannot_be_sent_is_lost_and_not_awaited() -> None:
    class Closed(Handle):
        def remote(self, *_: Any) -> Handle:
            raise RuntimeError("the handle is closed")

    sent = list[Frame]()
    bridge = Bridge(Closed(), sent.append)
    bridge.receive(Frame("ask", 1, ("r0", "call", b"")))
    await until(lambda: bool(sent))
    assert sent == [Frame("lost", 1, "RuntimeError")]
    await bridge.close()
