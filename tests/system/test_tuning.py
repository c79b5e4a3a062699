"""`frontrunner tune` and `frontrunner compare` on the embedded pack, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from models.tuning import state

pytestmark = [pytest.mark.torch, pytest.mark.soak]

QUICK = "--fields 1 --candidates 2 --steps 2 --rank 2 --batch 4 --rows 32 --evaluate-every 1 --iterations 1"


def said(command: list[str]) -> str:
    """What a command prints that succeeds."""
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


def test_the_pack_is_tuned_and_its_adapter_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRONTRUNNER_GENERATOR", "pictogram")
    monkeypatch.setenv("FRONTRUNNER_SCORER", "pictogram")
    monkeypatch.setenv("FRONTRUNNER_DATA_DIR", str(tmp_path / "data"))
    things = ("apple", "boat", "car", "duck", "cat", "house", "tree", "rose")
    (tmp_path / "p.txt").write_text("".join(f"a red {thing}\n" for thing in things))
    out, models = tmp_path / "loras" / "mine", ["--prompts", "p.txt", "--referee", "fake-judge"]
    tuned = said(["tune", *models, "--out", "loras/mine", *QUICK.split()])
    assert "1/1 held out: reward" in tuned
    assert "verdict: reject: " in tuned
    assert f"FRONTRUNNER_LORA_DIR={out.parent} and the name mine" in tuned
    assert json.loads((out / state.REPORT).read_text())["base_untouched"]
    raced = said(["compare", "loras/mine", "base", *models, "--candidates", "2", "--steps", "2", "--out", "c.json"])
    assert "candidates of one seed: A wins" in raced
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["reward"], found["referee"], found["prompts"]) == ("pictogram", "fake-judge", 8)
