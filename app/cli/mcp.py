"""`frontrunner mcp`: the tools of the Model Context Protocol over stdio."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx

from app import logs
from app.cli.client import CliError, authorization
from app.cli.local_server import running_service

TIMEOUT = httpx.Timeout(10.0, read=300.0, write=60.0)
"""Rankings respond once they are done; event streams have a heartbeat."""


class _Stopped(Exception):
    """The command ends while the local service still loads."""


class LocalService:
    """A temporary service that starts in the background.

    So the protocol answers at once, and only calls of tools wait for the models.
    """

    def __init__(self) -> None:
        self._url: Future[str] = Future()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._stopping.set()
        with suppress(InvalidStateError):
            self._url.set_exception(CliError("the service is stopping"))
        self._thread.join()

    def url(self) -> str:
        """The URL, once the models are loaded. Raises CliError."""
        return self._url.result()

    def _run(self) -> None:
        try:
            with running_service(self._watch) as url, suppress(InvalidStateError):
                self._url.set_result(url)
                self._stopping.wait()
        except _Stopped:
            pass
        except (CliError, OSError) as error:
            error = error if isinstance(error, CliError) else CliError(f"the service did not start: {error}")
            with suppress(InvalidStateError):
                self._url.set_exception(error)

    def _watch(self, _: str) -> None:
        if self._stopping.is_set():
            raise _Stopped


def run_mcp(url: str | None) -> None:
    """Serve until stdin ends. Raises CliError.

    `url` is that of a service; without one, a local service is started.
    """
    try:
        from app.api.compat.mcp.server import build_server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"mcp", "mcp_types"}:
            raise
        raise CliError("MCP is not installed: run `pip install 'frontrunner[mcp]'`") from None
    if url is not None and not (urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname):
        raise CliError("--url must be a URL such as https://images.example.com")
    logs.configure("warning", "console")
    with ExitStack() as stack:
        local = LocalService() if url is None else None
        if local is not None:
            local.start()
            stack.callback(local.stop)
        stack.enter_context(_ending_at_once(local))
        locate = local.url if local is not None else partial(str, url)
        anyio.run(build_server(_connector(locate)).run_stdio_async)


@contextmanager
def _ending_at_once(local: LocalService | None) -> Iterator[None]:
    """End the process on a signal.

    A thread that waits for stdin cannot be interrupted.
    """

    def leave(number: int, _: FrameType | None) -> None:
        if local is not None:
            local.stop()
        os._exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connector(locate: Callable[[], str]) -> Callable[[Any], Any]:
    """Connect calls to the service at the URL that `locate` waits for."""
    from app.api.compat.mcp.tools import Refused, Service

    @asynccontextmanager
    async def connect(_: object) -> AsyncIterator[Service]:
        try:
            url = await anyio.to_thread.run_sync(locate, abandon_on_cancel=True)
        except CliError as error:
            raise Refused({"detail": str(error), "error": {"code": "unavailable"}}) from None
        parts = urlsplit(url)
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False, headers=authorization()) as client:
            yield Service(client, f"{parts.scheme}://{parts.netloc}")

    return connect
