"""Files fit a sitting, functions a screen; every module says what it owns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
LONGEST_FUNCTION = 80
PACKAGES = ("app", "frontrunner", "models")
GENERATED = ROOT / "frontrunner" / "types.py"


def _modules(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "node_modules" not in path.parts and path != GENERATED)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_files_stay_within_the_budget() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _modules(*PACKAGES, "tests")}
    assert len(lines) > 100
    assert {name: n for name, n in lines.items() if n > FILE_LINES} == {}


def test_functions_stay_short() -> None:
    lengths = dict(found for path in _modules(*PACKAGES) for found in _functions(path))
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}
    assert median(lengths.values()) <= 10
    assert quantiles(lengths.values(), n=20)[-1] <= 40


def test_modules_say_what_they_own() -> None:
    silent = [path for path in _modules(*PACKAGES) if not ast.get_docstring(_tree(path))]
    assert silent == []
