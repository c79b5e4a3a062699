"""Prompts of composed attributes for tuning the embedded pack, kept in `tuning.json`.

`python -m tests.bench.tuning_prompts` draws them again: things and colours are those of `stated.json`, which are known
to have other colours. No prompt to measure on is among those to train on.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from models.training.data.captions import Captioner
from models.training.data.palette import BACKGROUND_NAMES, HUE_NAMES
from models.training.data.scenes import Place, Scene, Size, Thing
from models.training.evaluation.prompts import Prompt

FILE = Path(__file__).parent / "tuning.json"
STATED = Path(__file__).parent / "stated.json"
TRAINED, HELD_OUT = 400, 96
SIZES: tuple[Size, ...] = ("small", "medium", "large")
PLACES: tuple[Place, ...] = ("left", "centre", "right")
PAIRS = 0.6
"""Share of prompts with two things, which are the harder ones."""


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


def _row(text: str, scene: Scene) -> dict[str, Any]:
    things = [[thing.name, thing.hue] for thing in scene.things]
    where = {"background": scene.background, "size": scene.size, "place": scene.place, "column": scene.column}
    return {"text": text, "things": things, "stated": sorted(scene.stated), **where}


def _scene(rng: random.Random, coloured: list[str]) -> Scene:
    """Two things with a colour each, or one with a colour and two of background, size and place."""
    hues = rng.sample(list(HUE_NAMES), 2)
    ground = rng.choice([each for each in BACKGROUND_NAMES if each not in hues])
    if rng.random() < PAIRS:
        things = tuple(Thing(name, hue) for name, hue in zip(rng.sample(coloured, 2), hues, strict=True))
        stated = frozenset({"background"} if rng.random() < 0.5 else ())
        return Scene(things, "noto", ground, stated=stated, column=rng.random() < 0.4)
    size: Size = rng.choice(SIZES)
    place: Place = "centre" if size == "large" else rng.choice(PLACES)
    stated = frozenset(rng.sample(("background", "size", "place"), 2))
    return Scene((Thing(rng.choice(coloured), hues[0]),), "noto", ground, size, place, stated)


def draw(count: int, seed: int) -> list[tuple[str, Scene]]:
    """Scenes with their captions, all different."""
    stored = json.loads(STATED.read_text())
    coloured = sorted({row["thing"] for rows in stored.values() for row in rows if row["hue"]})
    rng, captioner, made = random.Random(seed), Captioner(seed), dict[str, Scene]()
    while len(made) < count:
        scene = _scene(rng, coloured)
        made.setdefault(captioner.caption(scene), scene)
    return list(made.items())


def main() -> None:
    """Draw and keep the prompts."""
    every = draw(TRAINED + HELD_OUT, 27)
    lists = {"held_out": every[:HELD_OUT], "trained": every[HELD_OUT:]}
    rows = {name: ",\n".join(json.dumps(_row(*each)) for each in drawn) for name, drawn in lists.items()}
    FILE.write_text("{" + ",\n".join(f'"{name}": [\n{text}\n]' for name, text in rows.items()) + "}\n")


if __name__ == "__main__":
    main()
