"""Names that others rely on are in the documents. Settings, metrics, routes and errors: see `test_documents.py`."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from app.api import openapi
from app.cli import app as commands
from app.domain import EventKind
from tests.architecture.documents import ROOT, errors

API = (ROOT / "app" / "api" / "README.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
MERGE_MARK = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)


@pytest.mark.parametrize("kind", [*EventKind, "error"])
def test_events(kind: str) -> None:
    assert f"`{kind}`" in API


@pytest.mark.parametrize("code", openapi.error_codes())
def test_error_codes(code: str) -> None:
    assert f"| `{code}` | " in errors()


def test_commands() -> None:
    for command in commands.registered_commands:
        assert command.callback is not None
        assert re.search(rf"frontrunner [a-z |]*\b{command.name or command.callback.__name__}\b", README)


def test_measured_figures_of_capacity_name_version_date_and_machine() -> None:
    stored = json.loads((ROOT / "tests" / "bench" / "results" / "control.json").read_text("utf-8"))
    (where,) = {f"on {m['date']}, on {m['cores']} cores of an {m['cpu']}" for m in stored["machines"].values()}
    text = (ROOT / "docker" / "CAPACITY.md").read_text("utf-8")
    assert re.search(rf"Measured with version \d+\.\d+\.\d+ {re.escape(where)} ", text), "measure again"


def test_each_decision_has_a_number_of_its_own() -> None:
    titles = re.findall(r"^## (\d+)\. (.*)", (ROOT / "DECISIONS.md").read_text("utf-8"), re.MULTILINE)
    repeated = [title for place, title in enumerate(titles) if title[0] in {number for number, _ in titles[:place]}]
    assert not repeated, "give the later entries the next free numbers, and correct references to them"


def test_no_text_has_marks_of_a_merge() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    names = [
        name for name in listed.stdout.split("\0") if name.endswith((".md", ".py", ".ts", ".tsx", ".toml", ".yml"))
    ]
    assert "DECISIONS.md" in names
    marked = [name for name in names if MERGE_MARK.search((ROOT / name).read_text("utf-8"))]
    assert not marked, "unite both sides, and remove the marks"
