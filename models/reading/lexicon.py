"""The words of a pack: their meaning, their form in the file, and their search.

Owns the file `words.json` of a pack, which `models.training.data.languages` writes, and the longest match of phrases.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any


class Kind(StrEnum):
    """What a phrase does in a caption."""

    THING = "thing"
    COLOUR = "colour"
    SIZE = "size"
    ADJECTIVE = "adjective"
    PLACE = "place"
    RELATION = "relation"
    FRAME = "frame"
    STYLE = "style"
    COUNT = "count"
    FILLER = "filler"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Meaning:
    """An English text, and what it does in a caption."""

    kind: Kind
    english: str


@dataclass(slots=True)
class _Node:
    """A place in the tree of phrases: the words that may follow, and what ends here."""

    following: dict[str, _Node] = field(default_factory=dict)
    meaning: Meaning | None = None
    rank: int = sys.maxsize


class Phrases:
    """Phrases by their words; the longest one is found, and the first of several."""

    def __init__(self, phrases: Iterable[tuple[str, Meaning]]) -> None:
        self._root = _Node()
        for rank, (phrase, meaning) in enumerate(phrases):
            node = self._root
            for word in phrase.split():
                node = node.following.setdefault(word, _Node())
            node.meaning = node.meaning or meaning
            node.rank = min(node.rank, rank)

    def longest(self, forms: Iterable[Sequence[str]]) -> tuple[int, Meaning] | None:
        """The longest phrase at the start: its number of words, and its meaning.

        `forms` holds for each word the forms that it may stand for, the word itself first. Of phrases of equal length,
        that of more words as they stand counts, then the first one.
        """
        best: tuple[int, Meaning] | None = None
        nodes = [(0, self._root)]
        for length, words in enumerate(forms, start=1):
            nodes = [
                (changed + (place > 0), node.following[word])
                for changed, node in nodes
                for place, word in enumerate(words)
                if word in node.following
            ]
            if not nodes:
                break
            ends = [(changed, node.rank, node.meaning) for changed, node in nodes if node.meaning is not None]
            if ends:
                best = length, min(ends, key=itemgetter(0, 1))[2]
        return best


class Lexicon:
    """The content of `words.json`; its parts are built when they are first used.

    `english` are words that the pack knows, `mass` those that take no article. `emoji` maps a character to its name.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.english: frozenset[str] = frozenset(content["english"])
        self.mass: frozenset[str] = frozenset(content["mass"])
        self.emoji: dict[str, str] = content["emoji"]

    @classmethod
    def read(cls, file: Path) -> Lexicon:
        """The lexicon in a file."""
        return cls(json.loads(file.read_text("utf-8")))

    @cached_property
    def russian(self) -> Phrases:
        """Russian phrases in dictionary form, with English ones for mixed texts."""
        return Phrases([*_meanings(self._content["russian"]), *_meanings(self._content["captions"])])

    @cached_property
    def russian_words(self) -> frozenset[str]:
        """Every word of the Russian phrases, in dictionary form."""
        return frozenset(
            word for phrases in self._content["russian"].values() for phrase in phrases for word in phrase.split()
        )


def _meanings(kinds: dict[str, dict[str, str]]) -> list[tuple[str, Meaning]]:
    return [
        (phrase, Meaning(Kind(kind), english)) for kind, phrases in kinds.items() for phrase, english in phrases.items()
    ]
