"""`frontrunner calibrate`, and a service that plans by what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.cli.measuring.calibrate import _outlook
from app.domain import GenerationSpec
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.main import create_app
from app.service.generations.pruning_policy import DIVERSITY_POOL_FACTOR
from app.settings import Settings
from models import calibration_io, registry
from models.protocols import Calibration, Models
from models.protocols.steering import SteeringSettings
from models.synthetic.scorer import FakeScorer
from tests.api.kit import until
from tests.synthetic_models import StyledGenerator

pytestmark = pytest.mark.slow

ENVIRONMENT = {"FRONTRUNNER_GENERATOR": "fake", "FRONTRUNNER_SCORER": "fake", "COLUMNS": "200"}
THINGS = ("apple", "boat", "car", "duck", "house", "leaf", "moon", "star")


def calibrate(*arguments: str | Path, **settings: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["calibrate", *map(str, arguments)], env=ENVIRONMENT | settings)
    assert "Traceback" not in found.output
    return found.exit_code, found.output


def test_steered_generations_are_calibrated_beside_the_others(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "calibration.json"
    prompts.write_text("\n".join(f"a red {thing}" for thing in THINGS))
    code, told = calibrate("--prompts", prompts, "--candidates", "4", "--steering", "0.05", "--out", out)
    assert code == 0, told
    known = calibration_io.read_calibration(out)
    assert known.steering is None
    assert known.steered is not None
    assert known.steered.steering == (0.05, 0.15, 0.8)
    assert known.steered.preview_weight != known.preview_weight
    assert known.of_steering(SteeringSettings(0.05)) == known.steered
    assert known.of_steering(SteeringSettings(0.06)) is None
    assert known.of_steering(None) is known
    assert calibrate("--prompts", prompts, "--steering", "0.5", "--out", out)[0] == 2


@pytest.mark.parametrize(("setting", "wordings"), [("auto", 2), ("on", 2), ("off", 0)])
def test_fields_are_spread_over_styles_as_the_server_does(
    setting: str, wordings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced = []

    def submit(core: EngineCore, spec: GenerationSpec, *args: Any, **options: Any) -> None:
        raced.append(spec)
        original(core, spec, *args, **options)

    original = EngineCore.submit
    monkeypatch.setattr(EngineCore, "submit", submit)
    module = import_module("app.cli.measuring.calibrate")  # the package has a function of this name
    monkeypatch.setattr(module, "load_models", lambda _: Models(StyledGenerator(), FakeScorer()))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a red {thing}" for thing in THINGS))
    options = ("--prompts", prompts, "--candidates", "4", "--out", tmp_path / "calibration.json")
    code, told = calibrate(*options, FRONTRUNNER_SPREAD_STYLES=setting)
    assert code == 0, told
    assert {len(spec.wordings) for spec in raced} == {wordings}
    assert len(raced) == len(THINGS)


@pytest.mark.usefixtures("priced")
def test_a_service_plans_by_the_calibration_that_was_measured(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "calibration.json"
    prompts.write_text("\n\n".join(f"a red {thing}" for thing in THINGS))
    code, told = calibrate("--prompts", prompts, "--candidates", "8", "--out", out, "--plot", tmp_path / "r.svg")
    assert code == 0, told
    assert "8/8" in told
    assert "best of 16 in 8 steps: pruning" in told
    models = registry.load_models("fake", "fake", calibration=out)
    known = calibration_io.read_calibration(out)
    assert models.calibration == known
    assert known.matches(models.generator.info, models.scorer.info)
    assert known.steps == 8
    assert known.spearman[-1] == pytest.approx(1.0)
    assert known.artefacts is not None
    assert "limits of the artefact guard: contrast" in told
    assert known.match is not None
    drawn = ElementTree.parse(tmp_path / "r.svg")
    assert len(drawn.findall(".//{*}circle")) == len(known.match.reliability)
    assert f"probability of a match: calibration error {known.match.error:.3f}" in told
    settings = Settings(generator="fake", scorer="fake", calibration=out, data_dir=tmp_path / "data")
    with TestClient(create_app(settings)) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        (model,) = client.get("/v1/models").json()["data"]
        made = client.post("/v1/generations", json={"prompt": "a red apple", "pruning": "auto"}).json()
        least = {"prompt": "a red apple", "n": 4, "pruning": "off", "ranking": {"min_probability": 0.999999}}
        none = client.post("/v1/generations", json=least).json()
        image = client.post("/v1/generations", json=least, headers={"accept": "image/png"})
        again = f"/v1/generations/{made['id']}/rerank"
        other = client.post(again, json={"ranking": {"prompt": "a blue boat"}, "n": 1}).json()
    assert model["calibration"]["match"]["slope"] == known.match.slope
    best = made["data"][0]
    sure = known.match.slope * best["prompt_similarity"] + known.match.intercept
    assert best["probability"] == pytest.approx(1 / (1 + np.exp(-sure)))
    assert made["candidates"][best["index"]]["probability"] == best["probability"]
    assert none["margin_error"] == pytest.approx(known.match.noise * 2**0.5), "of a whole field: a plan may finish one"
    assert (none["data"], [w["code"] for w in none["warnings"]]) == ([], ["below_min_probability"])
    assert none["ranking"]["min_probability"] == 0.999999
    assert image.status_code == 422
    assert image.json()["errors"][0]["pointer"] == "#/ranking/min_probability"
    assert other["data"][0]["probability"] != best["probability"]
    assert model["calibration"]["correlation"] == pytest.approx(known.correlation)
    assert model["calibration"]["artefacts"]["noise"] == known.artefacts.noise
    assert known.head is not None
    assert model["calibration"]["head"] == {
        "used": list(known.head.used),
        "linear_error": list(known.head.linear_error),
        "head_error": list(known.head.head_error),
    }
    assert "head error" in told
    assert known.replay is not None
    assert (known.replay.candidates, known.replay.prompts) == (8, len(THINGS))
    assert model["calibration"]["replay"]["loss_ratio"] == known.replay.loss_ratio
    assert "plans for the best of 8 keep" in told
    assert told.count("linear fit") == known.head.used.count(False)
    assert not made["warnings"], "pruning is planned by it"


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose steps cost ten times what its previews do, however busy this machine is."""
    costs = CostModel.from_measurements({1: 0.01, 16: 0.16}, {1: 0.001}, {1: 0.001})
    monkeypatch.setattr(EngineCore, "measure", lambda core, *_: setattr(core, "costs", costs))


def foretelling(tmp_path: Path, generator: str = "1") -> Path:
    """A calibration of the fakes whose previews know nearly all from the second step on."""
    known = (0.5, *[0.99] * 7)
    path = tmp_path / f"calibration-{generator}.json"
    made = Calibration(generator, "1", "ddim", 8, 2.0, known, known, (1.0,) * 8, (0.0,) * 8)
    path.write_text(json.dumps(calibration_io.to_json(made)))
    return path


@contextmanager
def serving(tmp_path: Path, calibration: Path, **settings: Any) -> Iterator[TestClient]:
    names: dict[str, Any] = {
        "generator": "fake",
        "scorer": "fake",
        "calibration": calibration,
        "data_dir": tmp_path / "data",
    }
    with TestClient(create_app(Settings(**names, **settings))) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.mark.usefixtures("priced")
def test_auto_leaves_diversity_something_to_choose_from_and_prunes_near_the_calibrated_guidance(tmp_path: Path) -> None:
    asked = {"prompt": "a red apple", "n_candidates": 16, "n": 2, "steps": 8}

    def finished(made: dict[str, Any]) -> int:
        return sum(c["pruned_at_step"] is None for c in made["candidates"])

    with serving(tmp_path, foretelling(tmp_path)) as client:
        made = {
            name: client.post("/v1/generations", json={**asked, **more}).json()
            for name, more in (
                ("plain", {}),
                ("diverse", {"ranking": {"diversity": 0.5}}),
                ("elsewhere", {"guidance_scale": 9.0}),
            )
        }
    assert finished(made["plain"]) < DIVERSITY_POOL_FACTOR * 2 <= finished(made["diverse"]) < 16
    assert finished(made["elsewhere"]) == 16
    assert [w["code"] for w in made["elsewhere"]["warnings"]] == ["pruning_uncalibrated"]
    assert not made["plain"]["warnings"]
    assert not made["diverse"]["warnings"]


def test_a_calibration_of_other_weights_is_refused_in_all_places(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, foretelling(tmp_path, generator="2")) as client:
        (model,) = client.get("/v1/models").json()["data"]
        made = client.post("/v1/generations", json={"prompt": "a red apple", "n_candidates": 16}).json()
    assert "calibration" not in model
    assert [w["code"] for w in made["warnings"]] == ["pruning_uncalibrated"]
    assert "measured with other weights" in caplog.text


@pytest.mark.usefixtures("priced")
def test_regret_of_races_in_shadow_is_counted(tmp_path: Path) -> None:
    with serving(tmp_path, foretelling(tmp_path), pruning_shadow=1.0) as client:
        made = [
            client.post("/v1/generations", json={"prompt": "a red apple", "n_candidates": 16, "seed": seed}).json()
            for seed in range(3)
        ]
        told = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[:1] != "#")
    assert all(c["pruned_at_step"] is None for body in made for c in body["candidates"])
    assert float(told["frontrunner_pruning_shadows_total"]) == 3
    assert 0 <= float(told["frontrunner_pruning_regret_total"]) < 1


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [(["a red apple"] * 7, "--prompts has 7 prompts; at least 8"), (None, "--prompts is required")],
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


@pytest.mark.torch
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("mode", "name", "steps"), [("gate", "tiny-schnell", 4), ("native", "tiny-schnell", 4), ("gate", "tiny-sprint", 2)]
)
def test_few_step_models_are_calibrated_and_cut_at_most_once(
    tmp_path: Path, mode: str, name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps come from words in the model's name, as for the real ones."""
    from models.generators.families import base
    from models.generators.gate import survey
    from tests.contract.families import FAMILIES

    for module in (base, survey):
        monkeypatch.setattr(module, "default_size", lambda *_: (32, 32))
    FAMILIES["flux"].build("flux").save_pretrained(tmp_path / name)
    prompts, out = tmp_path / "prompts.txt", tmp_path / "calibration.json"
    prompts.write_text("\n".join(f"a red {thing}" for thing in THINGS))
    model = {"FRONTRUNNER_GENERATOR": str(tmp_path / name), "FRONTRUNNER_GENERATOR_MODE": mode}
    costs = CostModel.from_measurements({1: 1.0, 16: 16.0}, {1: 0.001}, {1: 0.001})
    monkeypatch.setattr(EngineCore, "measure", lambda core, *_: setattr(core, "costs", costs))
    code, told = calibrate("--prompts", prompts, "--candidates", "4", "--out", out, **model)
    assert code == 0, told
    known = calibration_io.read_calibration(out)
    assert (known.steps, len(known.correlation)) == (steps, steps)
    assert known.spearman[-1] == pytest.approx(1.0)
    assert f"best of 16 in {steps} steps: pruning" in told


@pytest.mark.torch
def test_one_step_leaves_nothing_to_prune_but_a_probability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.synthetic.generator import FakeGenerator

    info = FakeGenerator().info
    monkeypatch.setattr(FakeGenerator, "info", property(lambda _: replace(info, steps=1)))
    prompts, out = tmp_path / "prompts.txt", tmp_path / "calibration.json"
    prompts.write_text("\n".join(THINGS))
    code, told = calibrate("--prompts", prompts, "--out", out)
    assert code == 0
    assert "no pruning is possible: the generator makes one step" in told
    known = calibration_io.read_calibration(out)
    assert known.steps == 1
    assert known.match is not None


def test_the_outlook_says_where_a_tiny_decoder_pays() -> None:
    known = (0.99, 0.99, 0.99, 1.0)
    made = Calibration("1", "1", "flow_match_euler", 4, 1.0, known, known, (1.0,) * 4, (0.0,) * 4)
    steps, slow, quick = {1: 1.0, 16: 16.0}, {1: 5.0, 16: 80.0}, {1: 0.1, 16: 1.6}
    dear = _outlook(made, CostModel.from_measurements(steps, slow, quick), 0.97, tiny=False)
    assert "no cut pays" in dear
    assert "with a tiny decoder" in dear
    cheap = _outlook(made, CostModel.from_measurements(steps, quick, quick), 0.97, tiny=True)
    assert cheap.count("after step") == 1
    assert "tiny decoder" not in cheap
