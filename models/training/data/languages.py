"""Writes a pack's `words.json`: what its text front knows, see `models.reading`.

Russian names and keywords are those of emojibase-data (MIT), English ones those of the captions. `russian.json` beside
this module adds everyday words and the words for colours, places and styles; it decides where they differ. Phrases are
stored in dictionary form. This module does not import torch.
"""

import argparse
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.pack import MANIFEST
from models.reading.lexicon import Kind
from models.reading.russian import Morphology, plain
from models.training.data import captions, icons, scenes
from models.training.data.palette import BACKGROUND_NAMES

HERE = Path(__file__).parent
FILE = "words.json"
EMBEDDED = Path(__file__).parents[2] / "packs" / "pictogram"
SECTIONS = {
    Kind.STYLE: "styles",
    Kind.PLACE: "places",
    Kind.RELATION: "relations",
    Kind.FRAME: "frames",
    Kind.COUNT: "counts",
    Kind.COLOUR: "colours",
    Kind.SIZE: "sizes",
    Kind.ADJECTIVE: "adjectives",
}
"""Sections of `russian.json`; where two hold a phrase, the first decides."""

MOST_FORMS = 12
"""Combinations of dictionary forms of one phrase that are stored."""

_WORD = re.compile(r"[^\W_]+")


class Dictionary:
    """Russian phrases in dictionary form, by kind; their first meaning is kept."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, str]] = {
            str(kind): {} for kind in (*SECTIONS, Kind.BACKGROUND, Kind.THING, Kind.FILLER)
        }
        self._taken: set[str] = set()
        self._morphology = Morphology()

    def add(self, kind: Kind, phrase: str, english: str) -> None:
        """Add a phrase in every combination of its words' dictionary forms."""
        words = [sorted(self._forms(word)) for word in _WORD.findall(plain(phrase))]
        for forms in itertools.islice(itertools.product(*words), MOST_FORMS):
            key = " ".join(forms)
            if key and key not in self._taken:
                self._taken.add(key)
                self.kinds[kind][key] = english

    def add_all(self, kind: Kind, phrases: Mapping[str, str]) -> None:
        """Add phrases by their meaning, separated by commas."""
        for english, texts in phrases.items():
            for text in texts.split(","):
                self.add(kind, text, english)

    def _forms(self, word: str) -> tuple[str, ...]:
        known = self._morphology
        return known.lemmas(word) if known.is_known(word) else known.forms(word)


def russian(written: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Meanings of Russian phrases by kind.

    `written` is `russian.json`; `rows` are the entries of emojibase-data by the pack's names. Of the keywords, only
    those count that `written` lists: the others are associations, such as a table with a spoon.
    """
    found = Dictionary()
    for kind, section in SECTIONS.items():
        found.add_all(kind, written[section])
    found.add(Kind.BACKGROUND, "фон", "background")
    found.add_all(Kind.THING, written["things"])
    shown = {name: captions.DISPLAY.get(name, name) for name in rows}
    for name, row in rows.items():
        found.add(Kind.THING, row["label"], shown[name])
    kept = {plain(word).strip() for word in written["keywords"].split(",")}
    for name, row in rows.items():
        for tag in sorted(kept & {plain(tag) for tag in row.get("tags", ())}):
            found.add(Kind.THING, tag, shown[name])
    found.add_all(Kind.FILLER, {"": written["fillers"]})
    return found.kinds


def english_captions(names: Iterable[str], written: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """English phrases by kind, for texts that mix two languages."""
    words = [text for name in names for text in (name, captions.DISPLAY.get(name, name), *captions.SYNONYMS[name])]
    things = {plain(text): text for text in words if len(text.split()) < 3}
    colours = {english: english for english in written["colours"]} | {"gray": "grey"}
    sizes = {word: word for words in captions.SIZE_WORDS.values() for word in words}
    relations = {english: english for english in written["relations"]}
    places = {word: word for words in captions.PLACE_WORDS.values() for word in words}
    return {
        str(Kind.BACKGROUND): {"background": "background"},
        str(Kind.STYLE): {phrase: phrase for phrases in captions.STYLE_WORDS.values() for phrase in phrases},
        str(Kind.PLACE): places,
        str(Kind.RELATION): relations,
        str(Kind.COLOUR): colours,
        str(Kind.SIZE): sizes,
        str(Kind.THING): {k: v for k, v in things.items() if k not in colours},
    }


def english_words(names: Iterable[str]) -> list[str]:
    """Every English word of captions, held-out synonyms included."""
    texts = [
        *names,
        *captions.DISPLAY.values(),
        *itertools.chain.from_iterable(captions.SYNONYMS.values()),
        *captions.HELD_OUT,
        *itertools.chain.from_iterable(captions.STYLE_WORDS.values()),
        *captions.FRAMES,
        *captions.BACKGROUND_FORMS,
        *itertools.chain.from_iterable(captions.SIZE_WORDS.values()),
        *itertools.chain.from_iterable(captions.PLACE_WORDS.values()),
        *BACKGROUND_NAMES,
        "and side by next to beside left right of the an without",
    ]
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})


def content(emojibase: Path) -> dict[str, Any]:
    """The content of `words.json` from the folder of emojibase-data."""
    written = json.loads((HERE / "russian.json").read_text("utf-8"))
    names = icons.pack_names()
    rows = {row["label"]: row for row in json.loads((emojibase / "en/data.json").read_text("utf-8"))}
    others = {row["hexcode"]: row for row in json.loads((emojibase / "ru/data.json").read_text("utf-8"))}
    shown = {name: captions.DISPLAY.get(name, name) for name in names}
    return {
        "source": f"emojibase-data {icons.VERSIONS['emojibase-data']} (MIT), captions of models/training/data",
        "mass": sorted({*written["mass"], *scenes.MASS, *(shown[name] for name in scenes.MASS)}),
        "emoji": {rows[name]["emoji"].rstrip("\ufe0f"): shown[name] for name in names},
        "english": english_words(names),
        "captions": english_captions(names, written),
        "russian": russian(written, {name: others[rows[name]["hexcode"]] for name in names}),
    }


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def entry(pack: Path) -> dict[str, str]:
    """The entry of `words.json` in a pack's manifest, outside of its revision."""
    return {"file": FILE, "sha256": sha256(pack / FILE)}


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emojibase", type=Path, required=True, help="the folder of the npm package emojibase-data")
    parser.add_argument("--pack", type=Path, default=EMBEDDED, help="the pack folder")
    args = parser.parse_args()
    text = json.dumps(content(args.emojibase), ensure_ascii=False, indent=0, sort_keys=False)
    (args.pack / FILE).write_text(text + "\n", "utf-8")
    index = args.pack / MANIFEST
    meta = json.loads(index.read_text("utf-8")) | {"words": entry(args.pack)}
    index.write_text(json.dumps(meta, indent=1) + "\n", "utf-8")
    print(f"{args.pack / FILE}: {len(text) // 1024} KiB")


if __name__ == "__main__":
    main()
