"""`frontrunner sweep` on the synthetic models: the curve, its end, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.engine.core import EngineCore
from app.engine.sweeps.steering import SweepPoint, compared, image_statistics, where_to_stop
from models import registry
from models.protocols import GeneratorInfo
from models.synthetic.scorer import FakeScorer
from tests.synthetic_models import StyledGenerator

ENVIRONMENT = {"FRONTRUNNER_GENERATOR": "fake", "FRONTRUNNER_SCORER": "fake", "COLUMNS": "200"}
THINGS = ("apple", "boat", "car", "duck", "house", "leaf", "moon", "star")


def swept(*arguments: str | Path, **settings: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["sweep", *map(str, arguments)], env=ENVIRONMENT | settings)
    assert "Traceback" not in found.output
    return found.exit_code, found.output


def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"a red {thing}" for thing in THINGS))
    return path


def test_the_curve_of_score_and_artefacts_is_written_and_shown(tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    code, shown = swept("--prompts", prompts(tmp_path), "--scales", "0.05,0.1", "--candidates", "3", "--out", out)
    assert code == 0, shown
    assert "no proof of quality" in shown
    found = json.loads(out.read_text())
    assert [point["scale"] for point in found["points"]] == [0.0, 0.05, 0.1]
    scores = [point["change"]["score"] for point in found["points"]]
    assert scores[0] == 0.0 < scores[1] < scores[2]
    assert found["referee"] is None
    assert set(found["base"]) == {"score", "variation", "clipped", "high_band"}


def test_a_referee_that_is_configured_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load_models
    monkeypatch.setattr(registry, "load_models", lambda *a, **k: replace(load(*a, **k), referee=FakeScorer()))
    out = tmp_path / "sweep.json"
    code, shown = swept("--prompts", prompts(tmp_path), "--scales", "0.1", "--out", out)
    assert code == 0, shown
    found = json.loads(out.read_text())
    assert found["referee"] == "fake"
    assert found["points"][1]["change"]["referee"] == pytest.approx(found["points"][1]["change"]["score"], abs=1e-6)


def test_a_referee_that_cannot_judge_a_prompt_ends_the_sweep(tmp_path: Path) -> None:
    options = ("--prompts", prompts(tmp_path), "--scales", "0.1", "--out", tmp_path / "s.json")
    code, shown = swept(*options, FRONTRUNNER_REFEREE="layout:fake-2")
    assert (code, "frontrunner: the text does not say where two things are" in shown) == (1, True), shown


@pytest.mark.parametrize(("setting", "wordings"), [("auto", 2), ("off", 0)])
def test_fields_are_spread_over_styles_as_the_server_does(
    setting: str, wordings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept_info = []

    def run(core: EngineCore, info: GeneratorInfo, *args: Any, **options: Any) -> Any:
        swept_info.append(info)
        return original(core, info, *args, **options)

    module = import_module("app.cli.measuring.sweep")
    original = module.run
    load = registry.load_models
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(registry, "load_models", lambda *a, **k: replace(load(*a, **k), generator=StyledGenerator()))
    options = ("--prompts", prompts(tmp_path), "--scales", "0.1", "--candidates", "2", "--out", tmp_path / "s.json")
    code, shown = swept(*options, FRONTRUNNER_SPREAD_STYLES=setting)
    assert code == 0, shown
    assert [len(info.styles.wordings("a cup")) for info in swept_info if info.styles is not None] == [wordings]


def _of_several(tmp_path: Path, command: str, *arguments: str) -> tuple[int, str]:
    """A command on a file of two models; the second one has previous weights."""
    served = tmp_path / "models.toml"
    served.write_text(
        '[models.first]\ngenerator = "nowhere"\n'
        '[models.second]\ngenerator = "fake"\nscorer = "fake"\nprevious.v1.generator = "nowhere"\n'
    )
    environment = {"FRONTRUNNER_MODELS": str(served), "FRONTRUNNER_GENERATOR": None, "COLUMNS": "200"}
    found = CliRunner().invoke(app, [command, "--prompts", str(prompts(tmp_path)), *arguments], env=environment)
    return found.exit_code, " ".join(found.output.split())


def test_one_of_several_models_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    arguments = ("--scales", "0.1", "--candidates", "2", "--out", str(out))
    code, told = _of_several(tmp_path, "sweep", "--model", "second", *arguments)
    assert code == 0, told
    assert json.loads(out.read_text())["generator"] == "fake"


@pytest.mark.parametrize("command", ["sweep", "calibrate"])
def test_what_to_measure_of_several_models_must_be_named(tmp_path: Path, command: str) -> None:
    names = "measure one by --model NAME, of first, second, second@v1"
    code, told = _of_several(tmp_path, command)
    assert (code, names in told) == (1, True), told
    code, told = _of_several(tmp_path, command, "--model", "third")
    assert (code, f"--model third is no table of the file: {names}" in told) == (1, True), told
    found = CliRunner().invoke(app, [command, "--model", "second"], env=ENVIRONMENT)
    assert (found.exit_code, "FRONTRUNNER_MODELS: set that to the file" in found.output) == (1, True), found.output


@pytest.mark.parametrize("scales", ["", "a", "0.1,0.05", "0.05,0.05", "-1", "2", "nan"])
def test_bad_scales_are_refused(tmp_path: Path, scales: str) -> None:
    code, shown = swept("--prompts", prompts(tmp_path), "--scales", scales)
    assert code == 1
    assert "--scales" in shown


def point(scale: float, referee: float | None = None, variation: float = 0.1) -> SweepPoint:
    spread = np.linspace(-0.01, 0.01, 16)
    values = {"score": scale + spread, "variation": variation + spread, "clipped": spread, "high_band": spread}
    if referee is not None:
        values["referee"] = referee + spread * np.cos(np.arange(16) * (1 + scale))
    return SweepPoint(scale, values, 1.0 + scale)


def test_with_a_referee_the_smallest_scale_near_its_best_is_recommended() -> None:
    points = [point(0, 0.0), point(0.02, 0.1), point(0.05, 0.3), point(0.1, 0.3), point(0.4, -0.2)]
    assert where_to_stop(points)[0] == 0.05
    assert where_to_stop([point(0, 0.0), point(0.1, -0.1)])[0] == 0.0


def test_without_a_referee_artefacts_say_where_to_stop() -> None:
    assert where_to_stop([point(0), point(0.02), point(0.1, variation=0.2)])[0] == 0.02
    stop, why = where_to_stop([point(0), point(0.1)])
    assert stop == 0.1
    assert "no referee" in why


def test_differences_are_paired() -> None:
    row = compared([point(0), point(0.05)])[1]
    assert row.change["score"] == pytest.approx(0.05)
    assert row.error["score"] == pytest.approx(0.0, abs=1e-9)
    assert row.cost == pytest.approx(1.05)


def test_statistics_see_noise_and_clipping() -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(100, 150, (1, 32, 32, 3)).astype(np.uint8)
    smooth = np.broadcast_to(np.linspace(50, 200, 32)[None, :, None, None], (1, 32, 32, 3)).astype(np.uint8)
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    noisy, flat, blank = (image_statistics(each) for each in (noise, smooth, white))
    assert noisy[0][0] > flat[0][0]
    assert noisy[2][0] > flat[2][0]
    assert (blank[1][0], flat[1][0]) == (1.0, 0.0)
