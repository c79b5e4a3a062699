"""A Ray cluster of this machine alone, started and stopped by the command line.

Owns its process and the file that names it. Ray listens on every interface whatever it is asked; the token keeps others
out.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from app.workers.applications import ENVIRONMENT, ClusterProblem

START_S = 180.0
"""Maximum seconds for a start."""

STOP_S = 30.0
"""Seconds that Ray has to stop before it is killed."""

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Seconds that Ray waits for work to move to other machines; there are none."""

NICENESS = "RAY_worker_niceness"
"""How much Ray lowers the priority of workers: 15 by default."""


@dataclass(frozen=True, slots=True)
class Head:
    """A running cluster of this machine."""

    pid: int
    address: str


class LocalCluster:
    """The cluster that `folder` describes.

    Its process holds a lock on the file while it lives.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "cluster.json"
        self._log = folder / "cluster.log"

    def running(self) -> Head | None:
        """The cluster, if it runs."""
        try:
            with self._file.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return Head(**json.load(file))
        except (OSError, ValueError, TypeError):
            return None
        return None

    def address(self, port: int) -> str:
        """The address of the running cluster, or of one at this port.

        Empty for any free port.
        """
        head = self.running()
        return head.address if head is not None else f"{_loopback()}:{port}" if port else ""

    def start(self, port: int, cpus: int | None, gpus: int | None) -> Head:
        """Start it; return the running one if there is one.

        Raises ClusterProblem, before the start if Ray is not installed or there is no token.
        """
        if (head := self.running()) is not None:
            return head
        _check_ray()
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        host, port = _loopback(), port or _free_port()
        address = f"{host}:{port}"
        environment = {**ENVIRONMENT, DRAIN: "0", NICENESS: "0", **os.environ}
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        _make_token([*ray, "get-auth-token", "--generate"], environment)
        command = [*ray, "start", "--head", "--block", f"--node-ip-address={host}", f"--port={port}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", "--log-color=false"]
        command += [f"--num-cpus={cpus}"] if cpus is not None else []
        command += [f"--num-gpus={gpus}"] if gpus is not None else []
        with self._file.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClusterProblem(
                    "another `cluster up` starts this cluster: wait for it, then run it again"
                ) from None
            file.truncate(0)
            with self._log.open("wb") as log:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[file.fileno()],
                    start_new_session=True,
                )
            head = Head(process.pid, address)
            json.dump(asdict(head), file)
        self._wait_started(process, host, port)
        return head

    def stop(self) -> bool:
        """Stop it with all its processes; return whether it ran."""
        head = self.running()
        if head is None:
            return False
        for sign, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(head.pid, sign) if sign is signal.SIGKILL else os.kill(head.pid, sign)
            end = time.monotonic() + patience
            while time.monotonic() < end:
                if self.running() is None:
                    self._file.unlink(missing_ok=True)
                    return True
                time.sleep(0.1)
        raise ClusterProblem(f"process {head.pid} does not end: stop it yourself")

    def _wait_started(self, process: subprocess.Popen[bytes], host: str, port: int) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if process.poll() is not None:
                raise ClusterProblem(f"Ray did not start: see {self._log}")
            if b"Ray runtime started" in self._log.read_bytes() and _listens(host, port):
                return
            time.sleep(0.2)
        self.stop()
        raise ClusterProblem(f"Ray did not start within {START_S:.0f} s: see {self._log}")


def _make_token(command: list[str], environment: dict[str, str]) -> None:
    """Make the token unless there is one, in a file of this user alone.

    Raises ClusterProblem.
    """
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, umask=0o077)
    if made.returncode:
        why = (made.stderr.strip().splitlines() or [f"exit code {made.returncode}"])[-1]
        raise ClusterProblem(f"Ray has no token for its cluster: {why[:300]}; set RAY_AUTH_TOKEN, or repair ~/.ray")


def _check_ray() -> None:
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise ClusterProblem("Ray is not installed: install `frontrunner[cluster]`")


def _loopback() -> str:
    """An address of this machine alone.

    Ray replaces 127.0.0.1 by an outer one on Linux.
    """
    return "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_loopback(), 0))
        port: int = probe.getsockname()[1]
    return port


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
