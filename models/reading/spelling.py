"""Misspellings by one letter: a letter missing, added, wrong, or two exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

MIN_LETTERS = 4
"""Shorter words have too many neighbours to correct them."""

MOST_LETTERS = 24
"""Longer ones are no words."""

LATIN = "abcdefghijklmnopqrstuvwxyz"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"


def neighbours(word: str, alphabet: str) -> Iterator[str]:
    """Every text at a distance of one letter, with repeats."""
    splits = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    for left, right in splits:
        if right:
            yield left + right[1:]
        if len(right) > 1:
            yield left + right[1] + right[0] + right[2:]
        for letter in alphabet:
            yield left + letter + right
            if right:
                yield left + letter + right[1:]


def corrections(word: str, alphabet: str, known: Callable[[str], str | None]) -> dict[str, str]:
    """Words that a misspelt one may stand for, by the base form that `known` gives.

    `known` returns None for what is no word. Words of fewer than `MIN_LETTERS` or more than `MOST_LETTERS` letters have
    no correction. The first
    letter is seldom wrong: words with another one count only if there are no others. A single letter for a double one,
    or the reverse, is likelier than all else.
    """
    if not MIN_LETTERS <= len(word) <= MOST_LETTERS:
        return {}
    found: dict[str, str] = {}
    for other in dict.fromkeys(neighbours(word, alphabet)):
        base = known(other) if len(other) >= MIN_LETTERS - 1 else None
        if base is not None:
            found.setdefault(base, other)
    alike = {base: other for base, other in found.items() if other[0] == word[0]}
    doubled = {base: other for base, other in alike.items() if _single(other) == _single(word)}
    return doubled or alike or found


def _single(word: str) -> str:
    """The word with one letter for each run of equal ones."""
    return "".join(letter for letter, _ in groupby(word))
