"""Where a prompt puts two things, in English and Russian. Pure.

The whole prompt must have one of a few forms, so that words such as "left" or "над" in another sense are not taken for
a position.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Region: TypeAlias = Literal["left", "right", "top", "bottom"]
"""A half of an image."""

FORMS = '"A to the left of B", "A on the left and B on the right", "A above B", "A below B", "A next to B"'
"""What a prompt may look like, for messages."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Two things of a prompt, and the halves that show the first and the second.

    Two pairs of halves mean that either is right.
    """

    first: str
    second: str
    places: tuple[tuple[Region, Region], ...]


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_LEFT_RIGHT: tuple[Region, Region] = ("left", "right")
_RIGHT_LEFT: tuple[Region, Region] = ("right", "left")
_TOP_BOTTOM: tuple[Region, Region] = ("top", "bottom")
_BOTTOM_TOP: tuple[Region, Region] = ("bottom", "top")
_SIDE = "(?: side)?"
_JOIN = "(?:,? and|,? with|,? while|,)"
_IS = "(?: is| are)?"
_AND = "(?:,? и|,? а|,)"
_FORMS = tuple(
    (places, _compiled(before), _compiled(between), _compiled(f"{after}$"))
    for before, between, after, places in (
        ("", rf"{_IS} on the left{_SIDE}{_JOIN} ", rf"{_IS} on the right{_SIDE}", (_LEFT_RIGHT,)),
        ("", rf"{_IS} on the right{_SIDE}{_JOIN} ", rf"{_IS} on the left{_SIDE}", (_RIGHT_LEFT,)),
        ("", rf"{_IS} at the top{_JOIN} ", rf"{_IS} at the bottom", (_TOP_BOTTOM,)),
        ("", rf"{_IS} at the bottom{_JOIN} ", rf"{_IS} at the top", (_BOTTOM_TOP,)),
        ("", rf"{_IS}(?: (?:to|on) the)? left{_SIDE} of ", "", (_LEFT_RIGHT,)),
        ("", rf"{_IS}(?: (?:to|on) the)? right{_SIDE} of ", "", (_RIGHT_LEFT,)),
        ("", rf"{_IS} (?:above|over|on top of) ", "", (_TOP_BOTTOM,)),
        ("", rf"{_IS} (?:below|under|beneath|underneath) ", "", (_BOTTOM_TOP,)),
        ("", rf"{_IS} (?:next to|beside) ", "", (_LEFT_RIGHT, _RIGHT_LEFT)),
        ("", " and ", " side by side", (_LEFT_RIGHT, _RIGHT_LEFT)),
        ("слева ", f"{_AND} справа ", "", (_LEFT_RIGHT,)),
        ("справа ", f"{_AND} слева ", "", (_RIGHT_LEFT,)),
        ("", f" слева{_AND} ", " справа", (_LEFT_RIGHT,)),
        ("", f" справа{_AND} ", " слева", (_RIGHT_LEFT,)),
        ("", " слева от ", "", (_LEFT_RIGHT,)),
        ("", " справа от ", "", (_RIGHT_LEFT,)),
        ("", " над ", "", (_TOP_BOTTOM,)),
        ("", " под ", "", (_BOTTOM_TOP,)),
        ("", " рядом с ", "", (_LEFT_RIGHT, _RIGHT_LEFT)),
    )
)
_FRAME = re.compile(
    "(?:(?:an?|the) )?(?:picture|photo|photograph|drawing|painting|image|illustration) of ", re.IGNORECASE
)
_BACKGROUND = re.compile(
    r"(?: (?:on|with|against|in front of))?(?: an?| the)?(?: [^\W\d_]+)? background\b.*| на [^\W\d_]+ фоне\b.*",
    re.IGNORECASE,
)
_CLAUSES = 8
"""Clauses of a prompt that are read."""


def read_arrangement(text: str) -> Arrangement | None:
    """The two things of a text and their places; None if it has none of the forms.

    The shortest row of clauses that has a form counts: what follows, such as a style, belongs to neither thing. Nor
    does the kind of picture or its background.
    """
    bare = _BACKGROUND.sub("", _FRAME.sub("", " ".join(text.split()), count=1))
    ends = [found.start() for found in itertools.islice(re.finditer(r"[,.;]|$", bare), _CLAUSES)]
    return next(filter(None, (_read(bare[:end]) for end in ends)), None)


def _read(text: str) -> Arrangement | None:
    for places, before, between, after in _FORMS:
        begins, ends = before.match(text), after.search(text)
        found = between.search(text, begins.end(), ends.start()) if begins and ends else None
        if begins and ends and found:
            things = text[begins.end() : found.start()], text[found.end() : ends.start()]
            if all(things):
                return Arrangement(*things, places)
    return None
