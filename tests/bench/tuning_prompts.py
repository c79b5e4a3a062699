"""Prompts of composed attributes for tuning the embedded pack, kept in `tuning.json`.

`python -m tests.bench.tuning_prompts --runs FOLDER` draws them again, with the sampler of the pack's figures for
compositions: two things with a colour each, side by side or above each other, or a number of equal things. No prompt to
measure on is among those to train on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from models.training.data import icons
from models.training.data.scenes import Scene, SceneSampler, Thing
from models.training.evaluation import prompts
from models.training.evaluation.prompts import Prompt

FILE = Path(__file__).parent / "tuning.json"
TRAINED, HELD_OUT = 400, 96


def read() -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on, and prompts to measure on."""
    stored = json.loads(FILE.read_text())
    trained, held_out = ([_read(row) for row in stored[name]] for name in ("trained", "held_out"))
    return trained, held_out


def _read(row: dict[str, Any]) -> Prompt:
    things = tuple(Thing(name, hue) for name, hue in row["things"])
    stated = frozenset(row["stated"])
    scene = Scene(things, "noto", row["background"], row["size"], row["place"], stated, row["column"])
    return Prompt(row["text"], tuple(dict.fromkeys(thing.name for thing in things)), scene)


def _row(prompt: Prompt) -> dict[str, Any]:
    scene = prompt.scene
    assert scene is not None
    things = [[thing.name, thing.hue] for thing in scene.things]
    where = {"background": scene.background, "size": scene.size, "place": scene.place, "column": scene.column}
    return {"text": prompt.text, "things": things, "stated": sorted(scene.stated), **where}


def draw(runs: Path, count: int, seed: int) -> list[Prompt]:
    """Prompts with scenes, all different; `runs` has the true drawings."""
    drawings = icons.load_icons(runs, prompts.STYLES)
    sampler = SceneSampler(drawings, icons.pack_names(), prompts.STYLES, seed, prompts.COMPOSITIONS)
    every = {prompt.text: prompt for prompt in prompts.composition(sampler, count + count // 10)}
    return list(every.values())[:count]


def main() -> None:
    """Draw and keep the prompts."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tuning_prompts", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="a training folder with the true drawings")
    every = draw(parser.parse_args().runs, TRAINED + HELD_OUT, 27)
    lists = {"held_out": every[:HELD_OUT], "trained": every[HELD_OUT:]}
    rows = {name: ",\n".join(json.dumps(_row(each)) for each in drawn) for name, drawn in lists.items()}
    FILE.write_text("{" + ",\n".join(f'"{name}": [\n{text}\n]' for name, text in rows.items()) + "}\n")


if __name__ == "__main__":
    main()
