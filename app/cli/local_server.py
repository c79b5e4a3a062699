"""Temporary local service: a child process with a free port and a data folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from rich.console import Console

from app.cli.client import CliError, connect
from app.settings import ENV_PREFIX
from frontrunner import Client

STARTUP_TIMEOUT_S = 600.0
"""Maximum seconds for loading the models."""

SHUTDOWN_TIMEOUT_S = 20.0
"""Seconds that the child may take to stop before it is killed."""


def silent(detail: str) -> None:
    """Ignore the progress of loading."""


@contextmanager
def running_service(watch: Callable[[str], None] = silent) -> Iterator[str]:
    """Start a service for this block; yield its URL once it is ready.

    `watch` receives the detail of `/readyz` several times a second while the models load. Raises CliError when the
    service cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="frontrunner-") as folder:
        log = Path(folder) / "log"
        # The child inherits the open socket, so no other process takes the port and no connection is refused.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            process = _start(listening, Path(folder), log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log, watch)
            yield url
        finally:
            _stop(process)


def _start(listening: socket.socket, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    own = {"DATA_DIR": str(folder / "data"), "DATABASE_URL": "", "BLOB_URL": "", "DRAIN_S": "0", "LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "app.cli", "serve", "--fd", str(listening.fileno())]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            env=os.environ | {ENV_PREFIX + k: v for k, v in own.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, watch: Callable[[str], None]) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CliError(_last_line(log))
        with suppress(httpx.TransportError):  # the child is starting or ending
            answer = httpx.get(f"{url}/readyz", trust_env=False, timeout=60)
            if answer.status_code == 200:
                return
            watch(str(answer.json()["detail"]))
        time.sleep(0.1)
    raise CliError(
        f"the models did not load within {STARTUP_TIMEOUT_S:.0f} s: run `frontrunner serve` and read its log"
    )


def _last_line(log: Path) -> str:
    """Return the child's last log line, which is its error message."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (
        lines[-1].removeprefix("frontrunner: ")
        if lines
        else "the service ended without a message: run `frontrunner serve` to see why"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SHUTDOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def service_at(url: str | None, console: Console) -> Iterator[Client]:
    """Yield a client of the service at `url`, or of a temporary local one."""
    with ExitStack() as stack:
        if url is None:
            with console.status("loading the models") as status:
                url = stack.enter_context(running_service(status.update))
        yield stack.enter_context(connect(url))
