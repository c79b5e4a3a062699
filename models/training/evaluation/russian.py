"""Pairs of Russian and English prompts of one meaning, and the things they name.

This module does not import torch.
"""

import dataclasses
import json
import random
from pathlib import Path

from models.reading.inflection import is_plural, with_article
from models.training.data.captions import DISPLAY
from models.training.data.icons import pack_names
from models.training.data.palette import BACKGROUND_NAMES
from models.training.data.scenes import MASS

FILE = Path(__file__).parent / "russian.json"
BACKGROUNDS = {
    "white": "белом",
    "black": "чёрном",
    "grey": "сером",
    "red": "красном",
    "orange": "оранжевом",
    "yellow": "жёлтом",
    "green": "зелёном",
    "blue": "синем",
    "purple": "фиолетовом",
    "pink": "розовом",
    "brown": "коричневом",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A Russian and an English prompt; `name` is the thing that both name."""

    russian: str
    english: str
    name: str


def everyday() -> list[tuple[str, str]]:
    """Phrasings written by hand, with their English captions."""
    return [(row["ru"], row["en"]) for row in json.loads(FILE.read_text("utf-8"))["everyday"]]


def pairs(count: int = 200) -> list[Pair]:
    """Everyday phrasings, then names of the pack, half of them on a background."""
    content = json.loads(FILE.read_text("utf-8"))
    found = [Pair(row["ru"], row["en"], row["name"]) for row in content["everyday"]]
    rng = random.Random(29)
    taken = {pair.name for pair in found}
    names = [name for name in pack_names() if name in content["names"] and name not in taken]
    for place, name in enumerate(rng.sample(names, min(len(names), count - len(found)))):
        colour = rng.choice(BACKGROUND_NAMES)
        on = (f" на {BACKGROUNDS[colour]} фоне", f" on a {colour} background") if place % 2 else ("", "")
        shown = DISPLAY.get(name, name)
        asked = shown if shown in MASS or name in MASS or is_plural(shown) else with_article(shown)
        found.append(Pair(content["names"][name] + on[0], asked + on[1].replace("a orange", "an orange"), name))
    return rng.sample(found, count) if len(found) > count else found
