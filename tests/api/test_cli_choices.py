"""Quality, variants and vetoes on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.api.kit import House

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


def test_a_veto_and_scorers_make_one_ranking(house: House, tmp_path: Path) -> None:
    found = made(house, run(house, tmp_path, "-c", "4", "--veto", "artefact", "--scorer", "fake=2"))
    ranking = found["ranking"]
    assert (ranking["veto"], ranking["scorers"]) == (["artefact"], [{"name": "fake", "weight": 2.0}])
    plain = made(house, run(house, tmp_path, "-c", "4"))
    rerank = ["rerank", plain["id"], "--veto", "artefact", "--store", "--url", house.url]
    again = made(house, CliRunner().invoke(app, rerank, env={"COLUMNS": "150"}).output)
    assert again["ranking"]["veto"] == ["artefact"]
    assert "artefact" in run(house, tmp_path, "--veto", "ugly", code=1)
