"""Pairs of Russian and English prompts of one meaning, and the things they name.

This module does not import torch.
"""

import dataclasses
import json
import random
from pathlib import Path

from models.training.data.captions import DISPLAY
from models.training.data.icons import pack_names
from models.training.data.palette import BACKGROUND_NAMES

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
    names = [name for name in pack_names() if name in content["names"]]
    for place, name in enumerate(rng.sample(names, min(len(names), count - len(found)))):
        colour = rng.choice(BACKGROUND_NAMES)
        on = (f" на {BACKGROUNDS[colour]} фоне", f" on a {colour} background") if place % 2 else ("", "")
        found.append(
            Pair(content["names"][name] + on[0], DISPLAY.get(name, name) + on[1].replace("a orange", "an orange"), name)
        )
    return rng.sample(found, count) if len(found) > count else found
