"""Control images on the command line: `--control kind=FILE[@weight]` of generate and refine."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.api.kit import House, running
from tests.api.test_control import KINDS, drawn
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("control"), generator=InstrumentedGenerator(controls=KINDS)) as it:
        yield it


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    (tmp_path / "sketch.png").write_bytes(base64.b64decode(drawn().partition(",")[2]))
    return tmp_path / "sketch.png"


def run(house: House, *arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, [*arguments, "--url", house.url], env={"COLUMNS": "150"})
    assert found.exit_code == code, found.output
    return found.output


def made(house: House, output: str) -> dict[str, Any]:
    (name,) = re.findall(r"gen_\w+", output)
    found: dict[str, Any] = house.client.get(f"/v1/generations/{name}").json()
    return found


def test_generate_and_refine_follow_files(studio: House, sketch: Path, tmp_path: Path) -> None:
    sized = ["--size", "64x64", "--steps", "4", "-c", "2", "--seed", "7", "--out", str(tmp_path / "out")]
    controls = ["--control", f"sketch={sketch}@0.8", "--control", f"depth={sketch}"]
    generation = made(studio, run(studio, "generate", "a red apple", *sized, *controls))
    assert generation["control"] == [{"kind": "sketch", "weight": 0.8}, {"kind": "depth", "weight": 1.0}]
    native = studio.made(
        prompt="a red apple", size="64x64", steps=4, n_candidates=2, seed=7, n=1, guidance_scale=None,
        control=[{"kind": "sketch", "image": drawn(), "weight": 0.8}, {"kind": "depth", "image": drawn()}],
    )  # fmt: skip
    assert [c["score"] for c in generation["candidates"]] == [c["score"] for c in native["candidates"]]
    refine = ["refine", generation["id"], "-c", "2", "--out", str(tmp_path / "again")]
    kept = made(studio, run(studio, *refine))
    assert kept["control"] == generation["control"]
    other = made(studio, run(studio, *refine, "--control", f"depth={sketch}@.5"))
    assert other["control"] == [{"kind": "depth", "weight": 0.5}]


def test_a_file_may_have_an_at_sign(studio: House, sketch: Path, tmp_path: Path) -> None:
    named = sketch.rename(tmp_path / "sketch@2")
    sized = ["--size", "64x64", "--steps", "2", "-c", "2", "--out", str(tmp_path / "out")]
    for written, weight in ((f"{named}", 1.0), (f"{named}@0.5", 0.5)):
        generation = made(studio, run(studio, "generate", "x", *sized, "--control", f"sketch={written}"))
        assert generation["control"] == [{"kind": "sketch", "weight": weight}]


@pytest.mark.parametrize("option", ["sketch", "sketch=", "=file.png", ""])
def test_another_form_is_refused(studio: House, option: str) -> None:
    assert "kind=FILE@weight" in run(studio, "generate", "x", "--control", option, code=2)


def test_unknown_kinds_weights_and_files_are_refused(studio: House, sketch: Path, tmp_path: Path) -> None:
    found = run(studio, "generate", "x", "--control", f"canny={sketch}", code=1)
    assert "takes no control of kind 'canny': use depth, sketch" in found
    assert "send a value between 0 and 2" in run(studio, "generate", "x", "--control", f"sketch={sketch}@3", code=1)
    assert "cannot read" in run(studio, "generate", "x", "--control", f"sketch={tmp_path / 'gone.png'}", code=1)
    generation = studio.made(steps=2, n_candidates=2)
    assert "cannot read" in run(studio, "refine", generation["id"], "--control", "sketch=gone.png@0.5", code=1)
