"""A list of words that prompts should not have.

It is a list and no classifier: it knows neither synonyms nor context, so it misses much and hits harmless prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

BUILT_IN = Path(__file__).with_name("words.txt")
"""The list that comes with the service: English and Russian words."""

MAX_ENTRIES = 10_000

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class WordList:
    """Words and phrases, found as whole words in any case."""

    phrases: frozenset[tuple[str, ...]] = frozenset()
    longest: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(map(len, self.phrases), default=0))

    @classmethod
    def of(cls, entries: Iterable[str]) -> WordList:
        """A list of these entries. Raises ValueError for one without a letter or digit."""
        phrases = {entry: tuple(_words(entry)) for entry in entries}
        if empty := [entry for entry, words in phrases.items() if not words]:
            raise ValueError(f"the word list has an entry without a word: {empty[0]!r}")
        return cls(frozenset(phrases.values()))

    def found(self, text: str) -> tuple[str, ...]:
        """The entries in a text, in lower case and in order, each once."""
        words = _words(text)
        spans = (
            tuple(words[start : start + length]) for start in range(len(words)) for length in range(1, self.longest + 1)
        )
        return tuple(dict.fromkeys(" ".join(span) for span in spans if span in self.phrases))


def read_words(path: Path) -> WordList:
    """The list in a UTF-8 file: an entry a line; `#` begins a comment.

    Raises ValueError if it cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the word list cannot be read ({type(error).__name__}): use a UTF-8 text file") from None
    entries = [entry for line in lines if (entry := line.partition("#")[0].strip())]
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"the word list has {len(entries)} entries: use at most {MAX_ENTRIES}")
    return WordList.of(entries)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
