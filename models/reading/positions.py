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
        ("", rf"{_IS}(?: (?:to|on) the left{_SIDE}|(?<! the) left) of ", "", (_LEFT_RIGHT,)),
        ("", rf"{_IS}(?: (?:to|on) the right{_SIDE}|(?<! the) right) of ", "", (_RIGHT_LEFT,)),
        ("", rf"{_IS} (?:above|over|on top of) ", "", (_TOP_BOTTOM,)),
        ("", rf"{_IS} (?:below|under|beneath|underneath) ", "", (_BOTTOM_TOP,)),
        ("", rf"{_IS} (?:next to|beside) ", "", (_LEFT_RIGHT, _RIGHT_LEFT)),
        ("", " and ", rf"{_IS} (?:side by side|next to each other|beside each other)", (_LEFT_RIGHT, _RIGHT_LEFT)),
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
_FRAME = _compiled(
    r"(?:(?:an?|the) )?(?:[\w-]+ ){0,2}(?:picture|photo|photograph|drawing|painting|image|illustration) of "
)
_SHADE = r"[^\W\d_]+(?:-[^\W\d_]+)*"
_BACKGROUND = _compiled(
    rf" (?:on|with|against|in front of) an?(?: {_SHADE}){{1,3}} background\b.*|"
    rf"(?: (?:on|with|against|in front of))?(?: an?| the)?(?: {_SHADE})? background\b.*|"
    rf" на(?: {_SHADE}){{0,2}} фоне\b.*"
)
_NO_THING = _compiled(
    "each other|one another|the other|it|them|the (?:picture|photo|photograph|drawing|painting|image|frame|screen)|"
    ".* (?:not|не)"
)
"""What stands beside a form where it puts nothing, or not there."""

_CLAUSES = 8
"""Clauses of a prompt that are read."""


def read_arrangement(text: str) -> Arrangement | None:
    """The two things of a text and their places; None if it has none of the forms.

    The shortest row of clauses that has a form counts: what follows, such as a style, belongs to neither thing. Nor
    does the kind of picture or its background.
    """
    whole = " ".join(text.split())
    framed = _FRAME.match(whole)
    bare = _BACKGROUND.sub("", whole[framed.end() :] if framed else whole)
    ends = [found.start() for found in itertools.islice(re.finditer(r"[,.;]|$", bare), _CLAUSES)]
    return next(filter(None, (_read(bare[:end]) for end in ends)), None)


def _read(text: str) -> Arrangement | None:
    for places, before, between, after in _FORMS:
        begins, ends = before.match(text), after.search(text)
        found = between.search(text, begins.end(), ends.start()) if begins and ends else None
        if begins and ends and found:
            things = text[begins.end() : found.start()], text[found.end() : ends.start()]
            if all(things) and not any(map(_NO_THING.fullmatch, things)):
                return Arrangement(*things, places)
    return None
