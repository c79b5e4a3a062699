"""Quality, variants and vetoes on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from app.cli import app
from app.cli.client import OPTIONS, ordered_candidates
from models.load_options import LoadOptions, RemoteLimits
from models.registry import load_models
from tests.api.kit import House, running
from tests.remotes import Asked, PlainDecoder, Remote, Reply, base64_of

pytestmark = pytest.mark.slow


def run(house: House, tmp_path: Path, *options: str, code: int = 0) -> str:
    arguments = ["generate", "a red apple", "--steps", "4", "--out", str(tmp_path / "out"), "--url", house.url]
    found = CliRunner().invoke(app, [*arguments, *options], env={"COLUMNS": "150"})
    assert found.exit_code == code, found.output
    return found.output


def made(house: House, output: str) -> dict[str, Any]:
    (name,) = re.findall(r"gen_\w+", output)
    found: dict[str, Any] = house.client.get(f"/v1/generations/{name}").json()
    return found


def test_a_quality_counts_the_candidates_that_are_not_named(house: House, tmp_path: Path) -> None:
    qualities = house.client.get("/v1/models").json()["data"][0]["generator"]["quality"]
    drafted = made(house, run(house, tmp_path, "--quality", "draft"))
    assert drafted["n_candidates"] == max(4, qualities["draft"]["n_candidates"])
    assert made(house, run(house, tmp_path, "--quality", "draft", "-c", "3"))["n_candidates"] == 3
    assert made(house, run(house, tmp_path))["n_candidates"] == 16
    assert "draft" in run(house, tmp_path, "--quality", "fine", code=2)


def test_variants_are_texts_or_a_number(house: House, tmp_path: Path) -> None:
    texts = ["an apple, red", "a crimson apple"]
    own = made(house, run(house, tmp_path, "-c", "4", "--variant", texts[0], "--variant", texts[1]))
    assert {c["wording"] for c in own["candidates"]} == set(texts)
    auto = made(house, run(house, tmp_path, "-c", "6", "--variants", "3"))
    assert len({c["wording"] for c in auto["candidates"]}) == 3
    assert "exclude each other" in run(house, tmp_path, "--variants", "3", "--variant", "x", code=1)
    assert run(house, tmp_path, "--variants", "1", code=2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-c", "9999"], "--candidates: "),
        (["-c", "4", "--guidance", "1000"], "--guidance: "),
        (["-c", "4", "--size", "64"], "--size: "),
        (["-c", "4", "-x", "\x01"], "--negative: "),
        (["-c", "4", "--scorer", "none"], "--scorer (ranking.scorers.0.name): "),
        (["-c", "4", "--lora", "none:0.5"], "--lora"),
        (["-c", "4", "--veto", "ugly"], "--veto"),
        (["-c", "4", *["--variant", "x"] * 99], "--variants or --variant: "),
    ],
)
def test_an_error_names_the_option(house: House, tmp_path: Path, options: list[str], told: str) -> None:
    found = run(house, tmp_path, *options, code=1)
    assert f"frontrunner: {told}" in found


def test_every_named_option_exists() -> None:
    root: Any = get_command(app)
    known = {option for command in root.commands.values() for each in command.params for option in each.opts}
    named = {word for text in OPTIONS.values() for word in text.split(" or ") if word.startswith("--")}
    assert named <= known


@pytest.mark.parametrize("arguments", [["list", "--status", "done"], ["keys", "add", "--name", "a", "--right", "all"]])
def test_an_unknown_choice_is_told_plainly(arguments: list[str]) -> None:
    found = CliRunner().invoke(app, arguments, env={"COLUMNS": "150"})
    assert found.exit_code == 2
    assert "is not one of" in found.output
    assert "Value error" not in found.output


def test_a_veto_and_scorers_make_one_ranking(house: House, tmp_path: Path) -> None:
    found = made(house, run(house, tmp_path, "-c", "4", "--veto", "artefact", "--scorer", "fake=2"))
    ranking = found["ranking"]
    assert (ranking["veto"], ranking["scorers"]) == (["artefact"], [{"name": "fake", "weight": 2.0}])
    plain = made(house, run(house, tmp_path, "-c", "4"))
    rerank = ["rerank", plain["id"], "--veto", "artefact", "--store", "--url", house.url]
    again = made(house, CliRunner().invoke(app, rerank, env={"COLUMNS": "150"}).output)
    assert again["ranking"]["veto"] == ["artefact"]
    assert "artefact" in run(house, tmp_path, "--veto", "ugly", code=1)


def test_safety_is_that_of_the_option_else_of_the_server(tmp_path: Path) -> None:
    with running(tmp_path / "house", safety_classifier="fake", safety_threshold=0.615, safety="flag") as house:
        assert made(house, run(house, tmp_path, "-c", "4"))["safety"] == "flag"
        strict = made(house, run(house, tmp_path, "-c", "8", "--seed", "7", "--safety", "veto"))
        assert strict["safety"] == "veto"
        assert not any(image["safety"]["flagged"] for image in strict["data"])
        assert any(c["safety"]["flagged"] for c in strict["candidates"]), "the sheet has blanks"
        assert (tmp_path / "out" / "sheet.png").exists()
    assert "veto" in run(house, tmp_path, "--safety", "strict", code=2)


def test_candidates_without_an_image_are_blank_on_the_sheet(tmp_path: Path) -> None:
    def answer(asked: Asked, number: int) -> Any:
        return Reply(400, {"error": {"message": "no"}}) if number == 2 else {"data": [{"b64_json": base64_of("red")}]}

    limits = RemoteLimits(decoder=PlainDecoder, size=(64, 64), concurrency=1)
    with Remote(answer) as remote:
        load = lambda: load_models(f"openai:{remote.url}/v1#m", "fake", options=LoadOptions(remote=limits))  # noqa: E731
        with running(tmp_path / "house", load=load) as house:
            arguments = ["generate", "a red apple", "-c", "4", "--out", str(tmp_path / "out"), "--url", house.url]
            found = CliRunner().invoke(app, arguments, env={"COLUMNS": "150"})
            assert (found.exit_code, "no image was made" in found.output) == (0, True), found.output
            assert len([*(tmp_path / "out").glob("best-*.png")]) == 3
            done = made(house, found.output)
    (lost,) = [place for place, c in ordered_candidates(done) if c["failure"]]
    assert lost is None, "no command can refine it"
