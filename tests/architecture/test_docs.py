"""Names that others rely on are in the documents. Settings, metrics, routes and errors: see `test_documents.py`."""

from __future__ import annotations

import re

import pytest

from app.api import openapi
from app.cli import app as commands
from app.domain import EventKind
from tests.architecture.documents import ROOT, errors

API = (ROOT / "app" / "api" / "README.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


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


def test_each_decision_has_a_number_of_its_own() -> None:
    titles = re.findall(r"^## (\d+)\. (.*)", (ROOT / "DECISIONS.md").read_text("utf-8"), re.MULTILINE)
    repeated = [title for place, title in enumerate(titles) if title[0] in {number for number, _ in titles[:place]}]
    assert not repeated, "give the later entries the next free numbers, and correct references to them"
