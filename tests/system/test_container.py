"""What is deployed: linted, well-formed, and true to the settings and metrics that there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from app.metrics import NAMES
from app.settings import ENV_PREFIX, Settings
from tests.servers import end, free_port, listens, until
from tests.system import replicas

ROOT = Path(__file__).parents[2]
COMPOSE = ["docker-compose.yml", "docker/compose.gpu.yml"]
FILES = ["Dockerfile", *COMPOSE, "docker/README.md", "docker/haproxy.cfg", "docker/nginx.conf"]
FAKES = replicas.FAKES.format(delay_s=0.0) + replicas.SERVE
SECRETS = {"POSTGRES_PASSWORD": "p", "S3_SECRET_KEY": "s"}


def _tool(name: str) -> str:
    for place in (None, "/usr/sbin", str(Path(sys.executable).parent)):
        found = shutil.which(name, path=place)
        if found is not None:
            return found
    pytest.skip(f"{name} is not installed")


def _passes(*command: str, environment: Mapping[str, str] | None = None) -> None:
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_hadolint() -> None:
    _passes(_tool("hadolint"), "Dockerfile")


@pytest.mark.parametrize("files", [COMPOSE[:1], COMPOSE], ids=["cpu", "gpu"])
def test_compose_files(files: list[str]) -> None:
    chosen = [part for file in files for part in ("-f", file)]
    _passes(_tool("docker-compose"), *chosen, "config", "-q", environment=SECRETS)


def test_haproxy_takes_its_file() -> None:
    _passes(_tool("haproxy"), "-c", "-f", "docker/haproxy.cfg")


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    _passes(_tool("nginx"), "-t", "-e", "stderr", "-g", f"pid {tmp_path}/pid;", "-c", str(ROOT / "docker/nginx.conf"))


@pytest.mark.parametrize("file", FILES)
def test_every_setting_that_is_named_exists(file: str) -> None:
    named = set(re.findall(rf"\b{ENV_PREFIX}([A-Z][A-Z0-9_]*)\b", (ROOT / file).read_text()))
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("file", ["docker/grafana.json", "docker/README.md", "docker/prometheus.yml"])
def test_every_metric_that_is_named_exists(file: str) -> None:
    named = set(re.findall(r"\bfrontrunner_[a-z_]+", (ROOT / file).read_text())) - {"frontrunner_pictures"}
    assert {name.removesuffix("_bucket") for name in named} <= set(NAMES)


def test_the_dashboard_shows_every_metric() -> None:
    shown = json.dumps(json.loads((ROOT / "docker/grafana.json").read_text()))
    assert [name for name in NAMES if name not in shown] == []


READ_ONLY = """
mount --bind "$1" "$1"
cut -d' ' -f2 /proc/self/mounts | while read -r place; do
  case $place in /proc*|/sys*|/dev*|"$1") ;; *) mount -o remount,bind,ro "$place" ;; esac
done
for place in / /tmp /var/tmp "$HOME" .; do ! touch "$place/written" 2>/dev/null; done
shift
exec "$@"
"""


def test_it_needs_to_write_nowhere_but_in_its_data_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("only root can make file systems read-only")
    port = free_port()
    settings = {"DATA_DIR": str(tmp_path), "PORT": str(port), "HOST": "127.0.0.1"}
    with (tmp_path / "log").open("wb") as output:
        served = subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", tmp_path, sys.executable, "-c", FAKES, "serve"],
            cwd=ROOT,
            env=os.environ | {f"{ENV_PREFIX}{name}": value for name, value in settings.items()},
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: served.poll() is not None or listens(port))
        assert served.poll() is None, (tmp_path / "log").read_text()[-3000:]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            made = client.post("/v1/generations", json={"prompt": "a red apple", "n_candidates": 2})
            assert made.status_code == 200, made.text
            assert client.get(made.json()["data"][0]["url"]).status_code == 200
    finally:
        end(served)
    assert served.returncode == 0
    assert (tmp_path / "frontrunner.db").exists()


def test_the_image_stops_in_time_and_runs_as_nobody() -> None:
    text = (ROOT / "Dockerfile").read_text()
    last = text[text.index(" AS run") :]
    assert "USER 10001:10001" in last
    assert "STOPSIGNAL SIGTERM" in last
    assert re.search(r'HEALTHCHECK[^\n]*\\\n\s*CMD \["python"', last)
    grace = re.search(r"stop_grace_period: (\d+)s", (ROOT / "docker-compose.yml").read_text())
    assert grace is not None
    assert int(grace[1]) >= 4 + 30 + 15
