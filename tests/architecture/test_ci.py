"""What CI runs is what CONTRIBUTING says, and every part of the bench can be asked for."""

from __future__ import annotations

import re

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
