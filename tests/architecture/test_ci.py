"""What CI runs is what CONTRIBUTING says, and every part of the bench can be asked for."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.architecture.documents import ROOT

CI = (ROOT / ".ci" / "run").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_ci_runs_the_checks_that_contributors_run() -> None:
    run = re.findall(r"^make ([a-z]+)$", CI, re.MULTILINE)
    assert run == ["check", "test", "numeric", "soak", "fuzz"]
    first = CONTRIBUTING.partition("CI runs all five")[0]
    assert [name for name in run if f"`make {name}`" not in first] == []


def test_every_part_of_the_bench_is_measured() -> None:
    source = (ROOT / "tests" / "bench" / "__main__.py").read_text("utf-8")
    (listed,) = re.findall(r"^PARTS = \((.*?)\)", source, re.MULTILINE | re.DOTALL)
    parts = re.findall(r'"([a-z]+)"', listed)
    assert "contention" in parts
    assert "company" not in parts
    assert [part for part in parts if f'if "{part}" in asked.only' not in source] == []


@pytest.mark.parametrize(
    ("marks", "asked", "left_out"),
    [
        ("pytest.mark.slow", "not torch and not slow", True),
        ("[pytest.mark.anyio, pytest.mark.torch]", "not torch and not slow", True),
        ("[\n    pytest.mark.anyio,\n    pytest.mark.soak,\n]", "not soak", True),
        ("pytest.mark.anyio", "not torch and not slow", None),
        ("pytest.mark.slow", "not torch", None),
        ("pytest.mark.slow", "slow", None),
        ("pytest.mark.slow", "not slow or torch", None),
        ("pytest.mark.slow", "", None),
        ("needs_browser", "not slow", None),
    ],
)
def test_a_file_without_a_wanted_test_is_not_imported(
    pytestconfig: pytest.Config, tmp_path: Path, marks: str, asked: str, left_out: bool | None
) -> None:
    (hook,) = [
        plugin.pytest_ignore_collect
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if Path(getattr(plugin, "__file__", None) or "") == ROOT / "tests" / "conftest.py"
    ]
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n\npytestmark = {marks}\n\nSLOW = pytest.mark.slow\n", "utf-8")
    assert hook(file, SimpleNamespace(getoption=lambda _: asked)) is left_out
    file.write_text("import pytest\n\n\n@pytest.mark.slow\ndef test_slow() -> None: ...\n", "utf-8")
    assert hook(file, SimpleNamespace(getoption=lambda _: asked)) is None
