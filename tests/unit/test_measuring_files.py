"""Files of `calibrate` and `sweep`: refused before anything is loaded or measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("calibrate --prompts p.txt --out no/x.json", "the output file 'no/x.json' cannot be written"),
        ("calibrate --prompts p.txt --plot .", "the output file '.' cannot be written"),
        ("calibrate --prompts p.png", "p.png is no text in UTF-8"),
        ("sweep --prompts p.txt --out no/x.json", "the output file 'no/x.json' cannot be written"),
        ("sweep --prompts p.png", "p.png is no text in UTF-8"),
    ],
)
def test_files_that_cannot_be_used(command: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.cli import app
    from models import registry

    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(10)))
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    monkeypatch.setenv("FRONTRUNNER_GENERATOR", "fake")
    monkeypatch.setenv("FRONTRUNNER_SCORER", "fake")
    monkeypatch.delattr(registry, "load_models")
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1
    assert why in " ".join(done.output.split())
