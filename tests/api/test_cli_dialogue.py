"""A dialogue on the command line: re-rank, vote, refine and save."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from app.cli import app
from app.cli import client as remote
from app.cli.client import CliError
from app.cli.interactive import InteractiveSession
from tests.api.kit import House, running

pytestmark = pytest.mark.slow

ASKED = ["generate", "a red apple", "-c", "6", "-n", "2", "--seed", "7", "--steps", "4", "--interactive"]


def _invoked(house: House, *arguments: str | Path, lines: str | bytes = "") -> Result:
    return CliRunner().invoke(app, [*map(str, arguments), "--url", house.url], lines, {"COLUMNS": "150"})


def _talk(house: House, out: Path, *lines: str, code: int = 0, options: tuple[str, ...] = ()) -> str:
    found = _invoked(house, *ASKED, "--out", out, *options, lines="\n".join(lines))
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return found.stdout


def _dialogue(folder: Path) -> list[dict[str, Any]]:
    told = json.loads((folder / "dialogue.json").read_text())
    assert told["missing"] is None
    generations: list[dict[str, Any]] = told["data"]
    return generations


def _tables(told: str) -> list[list[str]]:
    """The seeds of every list that was shown, in order."""
    found: list[list[str]] = []
    for line in told.splitlines():
        cells = line.split()
        if cells[:2] == ["rank", "seed"]:
            found.append([])
        elif found and len(cells) >= 5 and cells[1].isdigit():
            found[-1].append(cells[1])
    return found


def test_every_list_has_its_warnings(house: House, tmp_path: Path) -> None:
    told = _talk(house, tmp_path, "prompt a cup to the left of a plate", "avoid dark", "prompt green")
    assert told.count("\nwarning: CLIP hardly sees positions") == 2


def test_a_whole_dialogue(house: House, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "a kept one"
    told = _talk(
        house, out,
        "prompt green", "avoid red; dark", "weight 1.5", "diversity 0.2", "best 3", "refine 2 0.5 a green apple",
        "back", f"save {kept}", "list", "quit", "prompt never read",
    )  # fmt: skip
    assert "compared with: green | to avoid: red; dark (weight 1.5) | diversity 0.2" in told
    assert "never read" not in told
    root, reranked = _dialogue(kept)
    assert (root["prompt"], root["seed"], reranked["parent"]["generation"]) == ("a red apple", 7, root["id"])
    assert (reranked["ranking"]["prompt"], reranked["n"], len(reranked["data"])) == ("green", 3, 3)
    assert [n["text"] for n in reranked["ranking"]["negatives"]] == ["red", "dark"]
    lists = _tables(told)
    assert len(lists) == 9
    assert lists[-1] == lists[-2] == lists[-4] != lists[-3]
    assert {p.name for p in kept.iterdir()} == {*(f"best-0{i}.png" for i in (1, 2, 3)), "sheet.png", "dialogue.json"}
    assert (out / "sheet.png").exists()
    for number in range(2, 8):
        assert f"sheet {out}/sheet-{number:02}.png" in told
        with Image.open(out / f"sheet-{number:02}.png") as sheet:
            assert sheet.width > 800


def test_a_refinement_keeps_the_words_it_came_from(house: House, tmp_path: Path) -> None:
    _talk(house, tmp_path, "prompt green", "refine 1", "refine 3 0.3", "save")
    root, reranked, child, leaf = _dialogue(tmp_path)
    assert [g["parent"] and g["parent"]["kind"] for g in (root, reranked, child, leaf)] == [
        None, "rerank", "refine", "refine",
    ]  # fmt: skip
    assert (child["prompt"], child["strength"], leaf["strength"]) == ("green", 0.5, 0.3)
    assert child["parent"]["index"] == next(c["index"] for c in reranked["candidates"] if c["rank"] == 1)
    third = remote.ordered_candidates(child)[2][1]["index"]
    assert leaf["parent"]["index"] == third


def test_votes_join_the_ranking_and_are_forgotten_unless_they_have_a_name(house: House, tmp_path: Path) -> None:
    told = _talk(house, tmp_path, "dislike 1", "like 2 3", "taste off", "taste on", "save")
    first, disliked, liked, off, on = _tables(told)
    assert off == first
    assert on == liked
    assert disliked != first
    assert told.count("with the votes") == 3
    assert sum({"rank", "taste"} <= set(line.split()) for line in told.splitlines()) == 4
    taste = _dialogue(tmp_path)[-1]["ranking"]["taste"]
    assert taste["profile"].startswith("dialogue-")
    assert house.client.get(f"/v1/taste/{taste['profile']}").status_code == 404
    _talk(house, tmp_path, "like 1", options=("--taste", "kept.votes"))
    assert house.client.get("/v1/taste/kept.votes").json()["liked"] == 1
    assert house.client.delete("/v1/taste/kept.votes").status_code == 204


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("paint", "unknown command 'paint'"),
        ("prompt", "prompt requires a text"),
        ("weight heavy", "'heavy' is not a number"),
        ("weight nan", "'nan' is not a number"),
        ("weight 11", "10"),
        ("diversity 2", "1"),
        ("best 0", "1"),
        ("best 7", "7 is out of range; send a value between 1 and 6"),
        ("best -1", "'-1' is not a whole number"),
        ("like", "like and dislike require places"),
        ("like 7", "place 7 does not exist: use 1 to 6"),
        ("like first", "'first' is not a whole number"),
        ("taste", "taste requires on or off"),
        ("taste on", "there is no such taste profile"),
        ("refine", "refine requires a place"),
        ("refine 0", "place 0 does not exist"),
        ("refine 1 1.5", "1"),
        ("refine 1 0.5 " + "x" * 5000, "at most 4000"),
        ("prompt " + "x" * 5000, "at most 4000"),
        ("back", "there is no previous list"),
        ("save /dev/null/x", "cannot write to /dev/null/x"),
        ("avoid " + "; ".join(["x"] * 17), "17 negatives were sent"),
    ],
)
def test_a_command_that_is_refused_is_told_and_the_next_one_done(
    house: House, tmp_path: Path, line: str, complaint: str
) -> None:
    told = _talk(house, tmp_path, line, "best 4", code=1)
    (said,) = [x for x in told.splitlines() if x.startswith("frontrunner: ")]
    assert complaint in said
    assert len(_tables(told)) == 2


def test_bytes_that_are_no_text_and_empty_lines(house: House, tmp_path: Path) -> None:
    lines = b"\n   \nprompt caf\xe9 \xff\nhelp\n"
    found = _invoked(house, *ASKED, "--out", tmp_path, lines=lines)
    assert found.exit_code == 0, found.output
    assert "compared with: caf\N{REPLACEMENT CHARACTER}" in found.stdout
    assert "refine 2 0.4 TEXT" in found.stdout


def test_a_service_that_goes_away_ends_it_with_a_complaint(tmp_path: Path) -> None:
    console = Console(quiet=True)
    with ExitStack() as stack:
        house = stack.enter_context(running(tmp_path / "service"))

        def lines() -> Iterator[str]:
            yield "best 1"
            stack.close()
            yield "best 2"

        with pytest.raises(CliError, match=r"no service listens|the connection"), remote.connect(house.url) as client:
            InteractiveSession(client, house.made(), tmp_path, None, (console, console)).run(lines())


def test_what_came_back_after_pruning_stands_where_it_is_ranked(house: House, tmp_path: Path) -> None:
    made = house.made(n_candidates=6, n=2, pruning=[{"at": 2, "keep": 2}])
    asked = {"ranking": {"prompt": "green"}, "n": 3, "include_pruned": True}
    done = house.post(f"/v1/generations/{made['id']}/rerank", json=asked).json()
    places = remote.ordered_candidates(done)
    assert [c["rank"] for _, c in places[:3]] == [1, 2, 3]
    assert any(c["pruned_at_step"] for _, c in places[:3])
    with remote.connect(house.url) as client:
        for path in remote.save_images(client, done, tmp_path)[:3]:
            rank = int(path.stem.partition("-")[2])
            told = next(image for image in done["data"] if image["rank"] == rank)
            assert path.read_bytes() == house.client.get(told["url"]).content


def test_refine_samples_from_a_place_or_a_picture(house: House, tmp_path: Path) -> None:
    made = house.made(n_candidates=5, n=2)
    asked = ["--strength", "0.5", "-p", "a green apple", "-x", "red", "-c", "4", "-n", "3", "--seed", "9"]
    found = _invoked(house, "refine", made["id"], "--pick", "2", *asked, "--out", tmp_path)
    assert found.exit_code == 0, found.output
    name = next(word for word in found.stdout.split() if word.startswith("gen_"))
    child = house.client.get(f"/v1/generations/{name}").json()
    index = remote.index_at_place(made, 2)
    assert child["parent"] == {"kind": "refine", "generation": made["id"], "index": index}
    assert [child[f] for f in ("prompt", "negative_prompt", "n_candidates", "n", "seed", "strength")] == [
        "a green apple", "red", 4, 3, 9, 0.5,
    ]  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"best-01.png", "best-02.png", "best-03.png", "sheet.png"}
    sketch = tmp_path / "sketch.png"
    Image.new("L", (30, 50), "white").save(sketch)
    found = _invoked(house, "refine", made["id"], "--image", sketch, "--out", tmp_path)
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("gen_x",), "no generation has this id"),
        (("MADE", "--pick", "9"), "place 9 does not exist"),
        (("MADE", "--best", "7"), "7 is out of range; send a value between 1 and 3"),
        (("MADE", "--prompt", " "), "empty"),
        (("RUNNING",), "the generation is "),
        (("MADE", "--image", "TEXT"), "image"),
    ],
)
def test_what_cannot_be_refined_is_told_in_one_line(
    house: House, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    running = house.queued(n_candidates=64, steps=150)
    text = tmp_path / "no-image.png"
    text.write_text("no image")
    named = {"MADE": house.made()["id"], "RUNNING": running["id"], "TEXT": str(text)}
    found = _invoked(house, "refine", *(named.get(a, a) for a in arguments), "--out", tmp_path)
    house.client.delete(f"/v1/generations/{running['id']}")
    assert found.exit_code == 1, found.output
    (said,) = [x for x in found.stderr.splitlines() if x.startswith("frontrunner: ")]
    assert complaint in said
