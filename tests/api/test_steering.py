"""Steering over HTTP: results, the cap, inheritance, records, files, refusals, models, the command line."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.protocols import Calibration, Models
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, is_problem, running
from tests.synthetic_models import InstrumentedGenerator, InstrumentedSteering

pytestmark = pytest.mark.slow

STEPS = 8
KNOWN = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
SETTINGS = {"scale": 0.05, "start": 0.15, "end": 0.8}


def codes(answer: dict[str, Any]) -> list[str]:
    return [each["code"] for each in answer["warnings"]]


def best(answer: dict[str, Any]) -> float:
    return float(answer["data"][0]["score"])


def test_a_steered_generation_scores_more_and_says_that_this_proves_nothing(house: House) -> None:
    plain = house.made(steps=STEPS)
    steered = house.made(steps=STEPS, steering={"scale": 0.05})
    assert best(steered) > best(plain)
    assert steered["steering"] == SETTINGS
    assert plain["steering"] is None
    assert codes(steered).count("score_steered") == 1
    assert "score_steered" not in codes(plain)
    assert steered["work"]["rows_steered"] == 3 * 5
    assert plain["work"]["rows_steered"] == 0


def test_a_scale_of_zero_is_as_if_absent(house: House) -> None:
    plain, zero = house.made(steps=STEPS), house.made(steps=STEPS, steering={"scale": 0})
    assert zero["steering"] is None
    assert zero["candidates"] == plain["candidates"]
    assert codes(zero) == codes(plain)
    images = [house.client.get(each["data"][0]["url"]).content for each in (plain, zero)]
    assert images[0] == images[1]


@pytest.mark.parametrize(
    ("steering", "pointer", "word"),
    [
        ({"scale": 0.11}, "#/steering/scale", "images get worse"),
        ({"scale": -0.1}, "#/steering/scale", ""),
        ({"scale": "0.05"}, "#/steering/scale", ""),
        ({}, "#/steering/scale", ""),
        ({"scale": 0.05, "start": 0.8, "end": 0.2}, "#/steering", "less than"),
        ({"scale": 0.05, "end": 1.5}, "#/steering/end", ""),
        ({"scale": 0.05, "views": 2}, "#/steering/views", ""),
        (0.05, "#/steering", ""),
    ],
)
def test_bad_settings_are_refused(house: House, steering: Any, pointer: str, word: str) -> None:
    answer = house.post(json={"prompt": "x", "steps": STEPS, "steering": steering})
    assert word in answer.text
    is_problem(answer, 422, "invalid_request", pointer)


def test_few_steps_are_refused(house: House) -> None:
    answer = house.post(json={"prompt": "x", "steps": 7, "steering": {"scale": 0.05}})
    assert "at least 8 steps" in is_problem(answer, 422, "invalid_request", "#/steps")["detail"]


def test_a_window_without_a_step_steers_nothing_and_says_so(house: House) -> None:
    answer = house.made(steps=STEPS, steering={"scale": 0.05, "start": 0.95, "end": 1.0})
    assert "not_steered" in codes(answer)
    assert "score_steered" not in codes(answer)
    assert answer["work"]["rows_steered"] == 0


def test_a_refinement_inherits_steering_unless_it_says_otherwise(house: House) -> None:
    source = house.made(steps=STEPS, steering={"scale": 0.05})
    path = f"/v1/generations/{source['id']}/refine"
    kept = house.post(path, json={"index": 0}).json()
    off = house.post(path, json={"index": 0, "steering": {"scale": 0}}).json()
    other = house.post(path, json={"index": 0, "steering": {"scale": 0.1}}).json()
    assert kept["steering"] == SETTINGS
    assert kept["work"]["rows_steered"] > 0
    assert off["steering"] is None
    assert other["steering"] == {**SETTINGS, "scale": 0.1}


def test_the_record_and_the_files_say_how_they_were_steered(house: House) -> None:
    made = house.made(steps=STEPS, steering={"scale": 0.05}, provenance="metadata")
    assert house.client.get(f"/v1/generations/{made['id']}").json()["steering"] == SETTINGS
    with Image.open(io.BytesIO(house.client.get(made["data"][0]["url"]).content)) as image:
        image.load()
    assert any('"steering"' in str(text) and "0.05" in str(text) for text in image.info.values())


def test_models_say_whether_they_can_be_steered(house: House) -> None:
    generator = next(m["generator"] for m in house.client.get("/v1/models").json()["data"] if "generator" in m)
    assert generator["steering"] is True
    assert generator["steering_refusal"] is None


def serving(tmp_path: Path, **models: Any) -> Any:
    generator = InstrumentedGenerator()
    return running(tmp_path, generator, load=lambda: Models(generator, FakeScorer(), **models))


@pytest.mark.parametrize("steering", [None, InstrumentedSteering(problem="the decoder has no gradient")])
def test_models_without_gradients_refuse(tmp_path: Path, steering: InstrumentedSteering | None) -> None:
    with serving(tmp_path, steering=steering) as house:
        answer = house.post(json={"prompt": "x", "steps": STEPS, "steering": {"scale": 0.05}})
        is_problem(answer, 422, "no_steering", "#/steering")
        assert not house.generator.calls[1:], "it is refused before a step"
        generator = next(m["generator"] for m in house.client.get("/v1/models").json()["data"] if "generator" in m)
        assert generator["steering"] is False
        assert "gradient" in generator["steering_refusal"]
        assert house.post(json={"prompt": "x", "n_candidates": 1, "steps": STEPS}).status_code == 200


def test_deterministic_steering_needs_equal_bits(tmp_path: Path, house: House) -> None:
    asked = {"prompt": "x", "steps": STEPS, "steering": {"scale": 0.05}, "deterministic": True}
    assert house.made(**asked)["deterministic"]
    with serving(tmp_path, steering=InstrumentedSteering(bit_stable=False)) as other:
        is_problem(other.post(json=asked), 422, "no_steering", "#/deterministic")


def test_pruning_needs_a_calibration_of_steered_races(tmp_path: Path) -> None:
    plain = Calibration("1", "1", "ddim", STEPS, 2.0, KNOWN, KNOWN, (1.0,) * STEPS, (0.0,) * STEPS)
    steered = replace(plain, steering=(0.05, 0.15, 0.8))
    asked = {"n_candidates": 16, "steps": STEPS, "steering": {"scale": 0.05}}
    with serving(tmp_path / "plain", steering=InstrumentedSteering(), calibration=plain) as house:
        assert "pruning_uncalibrated" in codes(house.made(**asked))
    both = replace(plain, steered=steered)
    with serving(tmp_path / "both", steering=InstrumentedSteering(), calibration=both) as house:
        assert "pruning_uncalibrated" not in codes(house.made(**asked))
        assert "pruning_uncalibrated" not in codes(house.made(n_candidates=16, steps=STEPS))
        other = {"scale": 0.1}
        assert "pruning_uncalibrated" in codes(house.made(**{**asked, "steering": other}))


def test_the_command_line_steers(house: House, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from app.cli import app

    options = ["--steps", str(STEPS), "--steering", "0.05", "--candidates", "2", "--best", "1"]
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["generate", "a red apple", *options, "--out", str(out), "--url", house.url])
    assert result.exit_code == 0, result.output
    (file,) = (path for path in out.glob("*.png") if path.name != "sheet.png")
    with Image.open(file) as image:
        texts = [str(text) for text in image.info.values()]
    assert any('"steering"' in text for text in texts)
