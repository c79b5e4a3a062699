"""Node's programs for tests: what is not installed is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def node(*command: str | Path, cwd: Path, packages: Path, environment: dict[str, str] | None = None) -> str:
    """What `node COMMAND` prints; skips without Node or without the packages of a folder."""
    binary = shutil.which("node")
    if binary is None:
        pytest.skip("Node is not installed")
    if not (packages / "node_modules").is_dir():
        pytest.skip(f"the packages of {packages.relative_to(ROOT)} are not installed (npm ci --ignore-scripts)")
    ran = subprocess.run(
        [binary, *command], cwd=cwd, env=os.environ | (environment or {}),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    return ran.stdout
