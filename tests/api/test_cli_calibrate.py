"""`frontrunner calibrate`, and a service that plans by what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.engine import calibration
from app.main import create_app
from app.settings import Settings
from models import calibrations, registry
from tests.api.kit import until

ENVIRONMENT = {"FRONTRUNNER_GENERATOR": "fake", "FRONTRUNNER_SCORER": "fake", "COLUMNS": "200"}
THINGS = ("apple", "boat", "car", "duck", "house", "leaf", "moon", "star")


def calibrate(*arguments: str | Path, **settings: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["calibrate", *map(str, arguments)], env=ENVIRONMENT | settings)
    assert "Traceback" not in found.output
    return found.exit_code, found.output


def test_a_service_plans_by_the_calibration_that_was_measured(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "calibration.json"
    prompts.write_text("\n\n".join(f"a red {thing}" for thing in THINGS))
    code, told = calibrate("--prompts", prompts, "--candidates", "8", "--out", out)
    assert code == 0, told
    assert "8/8" in told
    models = registry.load("fake", "fake", calibration=out)
    known = calibrations.read(out)
    assert models.calibration == known
    assert calibration.fits(known, models.generator.info, models.scorer.info)
    assert known.steps == 8
    assert known.spearman[-1] == pytest.approx(1.0)
    settings = Settings(generator="fake", scorer="fake", calibration=out, data_dir=tmp_path / "data")
    with TestClient(create_app(settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        (model,) = client.get("/v1/models").json()["data"]
        made = client.post("/v1/generations", json={"prompt": "a red apple", "pruning": "auto"}).json()
    assert model["calibration"]["correlation"] == pytest.approx(known.correlation)
    assert not made["warnings"], "pruning is planned by it"


@pytest.mark.parametrize(
    ("lines", "complaint"), [(["a red apple"] * 7, "7 prompts are too few"), (None, "--prompts is needed")]
)
def test_too_little_to_measure_is_told(tmp_path: Path, lines: list[str] | None, complaint: str) -> None:
    prompts = tmp_path / "prompts.txt"
    if lines:
        prompts.write_text("\n".join(lines))
    given: list[str | Path] = ["--prompts", prompts] if lines else []
    code, told = calibrate(*given, "--out", tmp_path / "calibration.json")
    assert code == 1
    assert complaint in told
    assert not (tmp_path / "calibration.json").exists()
