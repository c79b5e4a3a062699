"""Words of the prompt in an image, which a scorer may read instead of look.

Owns which words count, and how they are blurred. A word that the prompt quotes, or that follows a word such as
"saying", is wanted in the image and does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from models.protocols.guards import TextInImage

MIN_CONFIDENCE = 0.6
"""Least confidence of a legible text."""

MIN_LETTERS = 3
"""Shorter words do not count: recognition finds them by chance."""

LONG_WORD = 5
"""Least letters of a word that may be misread, or stand inside a longer text."""

SIMILARITY = 0.8
"""Least similarity of a misread word."""

PADDING = 0.25
"""Blurred margin around a text, relative to its height."""

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "and are but for from has have her his into its not off one out over the their them this that two under "
        "was with "
        "без для его ещё или как над она они под при про что это",
    )
)
"""Words that say nothing about a picture."""

_QUOTED = re.compile(r'"[^"]*"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|‘[^’]*’|`[^`]*`|(?<!\w)\'[^\']*\'(?!\w)')
_ANNOUNCED = re.compile(
    r"\b(?:say|says|saying|reads|reading|spells|spelling|labell?ed|titled|captioned|inscribed|lettering|caption|"
    r"the words?|the text|the letters|со словами|со словом|с надписью|надпись|с текстом)\b[^,.;\n]*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")


def unquoted_words(prompt: str) -> frozenset[str]:
    """Return the words that should be shown and not written, in lower case."""
    rest = _ANNOUNCED.sub(" ", _QUOTED.sub(" ", prompt))
    wanted = {w.casefold() for part in (*_QUOTED.findall(prompt), *_ANNOUNCED.findall(prompt)) for w in _words(part)}
    found = {w.casefold() for w in _words(rest)}
    return frozenset(w for w in found - wanted if len(w) >= MIN_LETTERS and w not in STOP_WORDS)


def written_words(texts: Iterable[TextInImage], words: frozenset[str]) -> list[tuple[str, TextInImage]]:
    """Return each legible text that has one of the words, with the first such word."""
    legible = (text for text in texts if text.confidence >= MIN_CONFIDENCE)
    found = ((next((w for w in sorted(words) if _is_written(w, text.text)), None), text) for text in legible)
    return [(word, text) for word, text in found if word is not None]


def blur(image: NDArray[np.uint8], texts: Sequence[TextInImage]) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) with these texts blurred beyond legibility."""
    blurred = Image.fromarray(image)
    for text in texts:
        left, top, right, bottom = text.box
        height = max(1, min(bottom - top, right - left))
        margin = max(1, round(PADDING * height))
        box = (
            max(0, left - margin),
            max(0, top - margin),
            min(blurred.width, right + margin),
            min(blurred.height, bottom + margin),
        )
        part = blurred.crop(box).filter(ImageFilter.GaussianBlur(height / 2))
        blurred.paste(part, box[:2])
    return np.asarray(blurred)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _is_written(word: str, text: str) -> bool:
    read = [w.casefold() for w in _words(text)]
    if word in read:
        return True
    if len(word) < LONG_WORD:
        return False
    alike = (w for w in read if abs(len(w) - len(word)) <= 1)
    joined = "".join(read)
    return word in joined or any(SequenceMatcher(None, word, w).ratio() >= SIMILARITY for w in alike)
