"""Whatever has a name that others rely on is in the README, as it really is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api import openapi
from app.cli import app as commands
from app.domain import EventKind
from app.main import create_app
from app.metrics import NAMES
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_with_their_defaults(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "") else f"`{field.default}`"
    assert f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |" in README


def _routes(tmp_path: Path) -> Iterator[str]:
    document = create_app(Settings(data_dir=tmp_path)).openapi()
    for path, methods in document["paths"].items():
        for method in methods:
            yield f"{method.upper()} {path.replace('{model_id}', '{id}').replace('{generation_id}', '{id}')}"


def test_routes(tmp_path: Path) -> None:
    missing = [route for route in _routes(tmp_path) if f"`{route}`" not in README]
    assert missing == []


@pytest.mark.parametrize("kind", [*EventKind, "error"])
def test_events(kind: str) -> None:
    assert f"`{kind}`" in README


@pytest.mark.parametrize("code", openapi.codes())
def test_error_codes(code: str) -> None:
    assert f"`{code}`" in README


@pytest.mark.parametrize("name", NAMES)
def test_metrics(name: str) -> None:
    assert f"| `{name}` | " in README


def test_commands() -> None:
    for command in commands.registered_commands:
        assert command.callback is not None
        assert re.search(rf"frontrunner [a-z |]*{command.callback.__name__}", README)
