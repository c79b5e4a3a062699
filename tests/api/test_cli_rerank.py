"""Re-ranking and redrawing from the command line."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from tests.api.kit import House


def _told(house: House, *arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(app, ["rerank", *arguments, "--url", house.url], env={"COLUMNS": "120"})
    assert found.exit_code == code, found.output
    return found.output


def test_rerank_shows_keeps_and_writes(tmp_path: Path, house: House) -> None:
    made = house.made(n_candidates=5)
    Image.new("RGB", (40, 30), "lime").save(tmp_path / "lime.png")
    told = _told(
        house, made["id"], "--prompt", "green", "-x", "red", "-x", "dark", "--like", str(tmp_path / "lime.png"),
        "--diversity", "0.5", "-n", "2", "--store", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    kept = next(word for word in told.split() if word.startswith("gen_"))
    assert kept != made["id"]
    body = house.client.get(f"/v1/generations/{kept}").json()
    assert body["ranking"]["prompt"] == "green"
    assert [n["text"] for n in body["ranking"]["negatives"]] == ["red", "dark"]
    assert body["ranking"]["references"][0]["weight"] == 1.0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"best-01.png", "best-02.png", "sheet.png"}


def test_what_cannot_be_ranked_again_is_told_in_one_line(house: House) -> None:
    assert "no generation has this id" in _told(house, "gen_x", code=1)
    assert "no such taste profile" in _told(house, house.made()["id"], "--taste", "nobody", code=1)


def test_refine_redraws_only_the_white_part(tmp_path: Path, house: House) -> None:
    made = house.made(steps=6)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (9, 9), 255).save(tmp_path / "small.png")
    arguments = ["refine", made["id"], "-p", "a blue boat", "--out", str(tmp_path / "out"), "--url", house.url]
    found = CliRunner().invoke(app, [*arguments, "--mask", str(tmp_path / "mask.png")], env={"COLUMNS": "120"})
    assert found.exit_code == 0, found.output
    child = house.client.get("/v1/generations", params={"limit": 1}).json()["data"][0]["id"]
    source = Image.open(BytesIO(house.client.get(made["data"][0]["url"]).content)).convert("RGB")
    redrawn = Image.open(tmp_path / "out" / "best-01.png").convert("RGB")
    kept, changed = (32, 0, 64, 64), (0, 0, 32, 64)
    assert house.client.get(f"/v1/generations/{child}").json()["masked"]
    assert redrawn.crop(kept).tobytes() == source.crop(kept).tobytes()
    assert redrawn.crop(changed).tobytes() != source.crop(changed).tobytes()
    refused = CliRunner().invoke(app, [*arguments, "--mask", str(tmp_path / "small.png")], env={"COLUMNS": "120"})
    assert refused.exit_code == 1
    assert "9x9" in refused.output
