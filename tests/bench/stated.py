"""Prompts that state what pixels can show, kept in `stated.json`, and whether a picture shows it.

`python -m tests.bench.stated RUNS` draws them anew from the icons in a folder of training runs, which tell what things
can have another colour. The layout and the colours that are checked are those of the embedded pack's pictures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from models.training.data import icons
from models.training.data.scenes import Mixture, Scene, SceneSampler, Thing
from models.training.evaluation.prompts import STYLES, Prompt, single

FILE = Path(__file__).parent / "stated.json"
COUNTS = {1: 24, 2: 64, 3: 64}
"""Prompts kept, by the number of attributes that they state."""


def prompts(attributes: int, known: frozenset[str]) -> list[Prompt]:
    """Prompts that state 1, 2 or 3 attributes, of things that are `known`."""
    rows = json.loads(FILE.read_text())[str(attributes)]
    return [_read(row) for row in rows if row["thing"] in known]


def _read(row: dict[str, Any]) -> Prompt:
    stated = frozenset(row["stated"])
    thing = Thing(row["thing"], row["hue"])
    scene = Scene((thing,), "noto", row["background"], row["size"], row["place"], stated)
    return Prompt(row["text"], (thing.name,), scene)


def _row(prompt: Prompt) -> dict[str, Any]:
    scene = prompt.scene
    assert scene is not None
    thing = scene.things[0]
    told = {"thing": thing.name, "hue": thing.hue, "stated": sorted(scene.stated)}
    return {"text": prompt.text, **told, "background": scene.background, "size": scene.size, "place": scene.place}


def main(runs: Path) -> None:
    """Draw and keep the prompts."""
    pictures = icons.load_icons(runs, STYLES)
    sampler = SceneSampler(pictures, icons.pack_names(), STYLES, 101, Mixture(pairs=0.0))
    drawn = {n: [json.dumps(_row(p)) for p in single(sampler, count, n)] for n, count in COUNTS.items()}
    lists = ",\n".join(f'"{n}": [\n' + ",\n".join(rows) + "\n]" for n, rows in drawn.items())
    FILE.write_text(f"{{{lists}}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
