"""Real balancers for tests, on 127.0.0.1, with the files of `docker/`. What is not installed is skipped."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import end, free_port, listens, until

DOCKER = Path(__file__).parents[1] / "docker"

HOP = """
events {}
http {
  server {
    listen 8000;
    location / {
      proxy_pass http://127.0.0.1:8001;
    }
  }
}
"""
"""An nginx as it comes, before a balancer."""


@contextmanager
def running_haproxy(ports: Sequence[int], folder: Path, edit: Callable[[str], str] = str) -> Iterator[str]:
    """HAProxy with `docker/haproxy.cfg` over replicas on these ports; its URL."""
    port = free_port()
    servers = "\n".join(f"  server replica{place} 127.0.0.1:{p} check" for place, p in enumerate(ports))
    text = edit((DOCKER / "haproxy.cfg").read_text()).replace("bind :8000", f"bind 127.0.0.1:{port}")
    config = folder / f"haproxy-{port}.cfg"
    config.write_text(re.sub(r"^  server-template .*$", servers, text, flags=re.MULTILINE))
    with _running([_binary("haproxy"), "-db", "-q", "-f", str(config)], port) as url:
        yield url


@contextmanager
def running_nginx(ports: Sequence[int], folder: Path, edit: Callable[[str], str] = str) -> Iterator[str]:
    """An nginx with `docker/nginx.conf` over replicas on these two ports; its URL."""
    with _nginx(edit((DOCKER / "nginx.conf").read_text()), ports, folder) as url:
        yield url


@contextmanager
def running_hop(port: int, folder: Path, *directives: str) -> Iterator[str]:
    """A plain nginx before a server on this port, with more directives in its location; its URL."""
    with _nginx(HOP.replace("proxy_pass", "\n      ".join([*directives, "proxy_pass"])), [port], folder) as url:
        yield url


@contextmanager
def running_edge(port: int, folder: Path) -> Iterator[str]:
    """An nginx with `docker/nginx-edge.conf` before a server on this port; the URL below which the service is."""
    with _nginx((DOCKER / "nginx-edge.conf").read_text(), [port], folder) as url:
        yield f"{url}/images"


def far_from_clients(text: str) -> str:
    """A balancer's file that takes this machine for a client's, not for a proxy's."""
    changed = text.replace("    127.0.0.0/8 1;\n", "").replace("src 127.0.0.0/8 ::1", "src 192.0.2.1")
    assert changed != text
    return changed


@contextmanager
def _nginx(text: str, ports: Sequence[int], folder: Path) -> Iterator[str]:
    port = free_port()
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    for place, own in enumerate(ports, 8001):
        text = text.replace(f"127.0.0.1:{place}", f"127.0.0.1:{own}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"\n  {kind}_temp_path {folder}/{port}-{kind};" for kind in kinds)
    config = folder / f"nginx-{port}.conf"
    config.write_text(text.replace("http {", f"http {{\n  access_log off;{paths}", 1))
    main = f"pid {folder}/nginx-{port}.pid; daemon off; master_process off;"
    log = str(folder / f"nginx-{port}.log")
    with _running([_binary("nginx"), "-e", log, "-g", main, "-c", str(config)], port) as url:
        yield url


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _binary(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
