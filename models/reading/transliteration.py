"""Russian in Latin letters, as people type it, in Cyrillic spellings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

MOST_SPELLINGS = 400
"""Spellings of one word that are tried; longer words have more."""

MOST_LETTERS = 24
"""Longer words have no spelling."""

_LETTERS: dict[str, tuple[str, ...]] = {
    "shch": ("щ",),
    "zho": ("жо", "же"),
    "cho": ("чо", "че"),
    "sho": ("шо", "ше"),
    "sch": ("щ", "сч"),
    "zh": ("ж",),
    "kh": ("х",),
    "ts": ("ц", "тс"),
    "tz": ("ц",),
    "ch": ("ч",),
    "sh": ("ш",),
    "yo": ("е", "йо"),
    "jo": ("е",),
    "io": ("ио", "е"),
    "yu": ("ю",),
    "ju": ("ю",),
    "iu": ("ю",),
    "ya": ("я",),
    "ja": ("я",),
    "ia": ("я", "иа"),
    "ye": ("е", "ые"),
    "je": ("е",),
    "iy": ("ий", "ый"),
    "yy": ("ый",),
    "ij": ("ий",),
    "yj": ("ый",),
    "a": ("а",),
    "b": ("б",),
    "c": ("ц", "к", "с"),
    "d": ("д",),
    "e": ("е", "э"),
    "f": ("ф",),
    "g": ("г",),
    "h": ("х",),
    "i": ("и", "й"),
    "j": ("й", "ж"),
    "k": ("к",),
    "l": ("л",),
    "m": ("м",),
    "n": ("н",),
    "o": ("о",),
    "p": ("п",),
    "q": ("к",),
    "r": ("р",),
    "s": ("с",),
    "t": ("т",),
    "u": ("у",),
    "v": ("в",),
    "w": ("в",),
    "x": ("кс", "х"),
    "y": ("ы", "й", "и", "ый", "ий"),
    "z": ("з",),
    "'": ("ь", ""),
}
_SOFTENED = "бвдзлмнпрстф"


def spellings(word: str) -> Iterator[str]:
    """Cyrillic spellings of a Latin word, the likeliest first.

    Spellings with one soft sign, which Latin letters often omit, come last.
    """
    if len(word) > MOST_LETTERS:
        return
    plain = list(dict.fromkeys(islice(_spelt(word), MOST_SPELLINGS)))
    yield from plain
    for text in plain[: MOST_SPELLINGS // 8]:
        for place, letter in enumerate(text, start=1):
            if letter in _SOFTENED:
                yield f"{text[:place]}ь{text[place:]}"


def _spelt(word: str) -> Iterator[str]:
    if not word:
        yield ""
        return
    for length in range(min(4, len(word)), 0, -1):
        for letters in _LETTERS.get(word[:length], ()):
            for rest in _spelt(word[length:]):
                yield letters + rest
