"""Words that mix Latin and Cyrillic letters of the same look."""

from __future__ import annotations

import re

_LATIN, _CYRILLIC = "aceopxyiABCEHKMOPTXYI", "асеорхуіАВСЕНКМОРТХУІ"
_TO_LATIN = str.maketrans(f"{_CYRILLIC}јѕЈЅ", f"{_LATIN}jsJS")
_TO_CYRILLIC = str.maketrans(_LATIN, _CYRILLIC)
_WORD = re.compile(r"[^\W\d_]+")
_LATIN_LETTER = re.compile(r"[a-zA-Z]")
_CYRILLIC_LETTER = re.compile(r"[а-яёА-ЯЁіїєґІЇЄҐјѕЈЅ]")


def unmixed(text: str) -> tuple[str, dict[str, str]]:
    """The text with every word in one script, and what was changed.

    The script is that of more letters, or the other one if it lacks a look. Words that neither can write stay.
    """
    if text.isascii() or not _CYRILLIC_LETTER.search(text) or not _LATIN_LETTER.search(text):
        return text, {}
    changed: dict[str, str] = {}

    def written(match: re.Match[str]) -> str:
        right = _in_one_script(match[0])
        if right is None:
            return match[0]
        changed[match[0]] = right
        return right

    return _WORD.sub(written, text), changed


def _in_one_script(word: str) -> str | None:
    """None for a word that has one script already, or that none can write."""
    latin, cyrillic = len(_LATIN_LETTER.findall(word)), len(_CYRILLIC_LETTER.findall(word))
    if not latin or not cyrillic:
        return None
    tables = [_TO_LATIN, _TO_CYRILLIC] if latin >= cyrillic else [_TO_CYRILLIC, _TO_LATIN]
    others = (_CYRILLIC_LETTER, _LATIN_LETTER) if latin >= cyrillic else (_LATIN_LETTER, _CYRILLIC_LETTER)
    written = (word.translate(table) for table in tables)
    return next((one for one, other in zip(written, others, strict=True) if not other.search(one)), None)
