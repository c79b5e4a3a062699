"""Weights in prompts: `(red:1.4)`, `(red)1.4`, `red++` and `red--`.

Reads conservatively: brackets, ratios, times and names such as `C++` stay text. Whether a model applies the weights is
in `GeneratorInfo.prompt_weights`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

MAX_WEIGHT = 4.0
"""Largest weight of a part of a prompt; the smallest is 0."""

_STRONGER, _WEAKER = 1.1, 0.9
_NUMBER = re.compile(r"[+-]?(?:\d{1,2}(?:\.\d{1,3})?|\.\d{1,3})")
_END = r"(?=[\s,.;:!?)\]]|$)"
_AFTER = re.compile(rf"(?:(?P<signs>\+{{2,15}}|-{{2,9}})|(?P<number>\d\.\d{{1,3}})){_END}")
_SIGN = re.compile(
    r"\\(?P<escaped>[()])|(?P<bracket>[()])"
    r"|(?<![^\s,;:\"'(\[])(?P<word>[^\W_](?:[\w'’]|-(?=\w))*)"
    rf"(?P<signs>\+{{2,15}}{_END}|-{{2,9}}(?=\s*(?:[,;)\]]|$)))"
)
_NAMES = frozenset({"c", "clang", "g", "i", "j", "libc", "libstdc", "n", "notepad", "x", "y"})
"""Words that are followed by two plus signs in ordinary text."""


@dataclass(frozen=True, slots=True)
class WeightedPrompt:
    """A prompt with marks.

    `parts` are its texts without marks, each with a weight of 0..`MAX_WEIGHT`. `marks` and `rejected` are marks as
    written. The rejected ones have a weight out of range and are text in `parts`.
    `limited` is whether nested weights had a product above the range.
    """

    parts: tuple[tuple[str, float], ...]
    marks: tuple[str, ...]
    rejected: tuple[str, ...]
    limited: bool

    @property
    def plain(self) -> str:
        """The prompt without marks."""
        return "".join(text for text, _ in self.parts)


@lru_cache(maxsize=256)
def read_weights(text: str) -> WeightedPrompt | None:
    """The weights in a prompt; None for a prompt without marks.

    Brackets without a weight, or without a partner, are text.
    """
    reader = _Reader(text)
    reader.read()
    return reader.result() if reader.marks or reader.rejected else None


def without_marks(text: str) -> str:
    """The text as a scorer should read it where a model applies the weights."""
    read = read_weights(text)
    return read.plain if read is not None and read.marks else text


@dataclass(slots=True)
class _Reader:
    """One pass over a text.

    `opened` holds, for each open bracket, its part and its place in the text.
    """

    text: str
    parts: list[tuple[str, float]] = field(default_factory=list)
    opened: list[tuple[int, int]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def read(self) -> None:
        at = 0
        while (found := _SIGN.search(self.text, at)) is not None:
            self._add(self.text[at : found.start()])
            at = found.end()
            if found["escaped"]:
                self._add(found["escaped"])
            elif found["word"]:
                self._word(found)
            elif found["bracket"] == "(":
                self.opened.append((len(self.parts), found.start()))
                self._add("(")
            else:
                at = self._close(at)
        self._add(self.text[at:])

    def result(self) -> WeightedPrompt:
        joined = tuple(
            ("".join(text for text, _ in group), weight)
            for weight, group in groupby(self.parts, key=lambda part: min(part[1], MAX_WEIGHT))
        )
        limited = any(weight > MAX_WEIGHT for _, weight in self.parts)
        return WeightedPrompt(joined, tuple(self.marks), tuple(self.rejected), limited)

    def _add(self, text: str, weight: float = 1.0) -> None:
        if text:
            self.parts.append((text, weight))

    def _word(self, found: re.Match[str]) -> None:
        word, signs = found["word"], found["signs"]
        name = word.casefold().rpartition("-")[2] in _NAMES or (len(word) == 1 and word.isupper())
        if name or word.isdigit() or not self._accept(_power(signs), found[0]):
            self._add(found[0])
        else:
            self._add(word, _power(signs))

    def _close(self, at: int) -> int:
        """Read a closing bracket that ends before `at`; returns the end of its mark."""
        if not self.opened:
            self._add(")")
            return at
        first, start = self.opened.pop()
        inside = self._weight_inside(first)
        if inside is not None and self._accept(inside, self.text[start:at]):
            colon = self.parts[-1][0].rpartition(":")[0]
            self.parts[-1:] = [(colon, self.parts[-1][1])] if colon else []
            self._multiply(first, inside)
            return at
        after = None if inside is not None or self._glued(start) else _AFTER.match(self.text, at)
        body = self.text[start + 1 : at - 1]
        if after is not None and body.strip():
            weight = _power(after["signs"]) if after["signs"] else float(after["number"])
            if self._accept(weight, self.text[start : after.end()]):
                self._multiply(first, weight)
                return after.end()
        self._add(")")
        return at

    def _weight_inside(self, first: int) -> float | None:
        """The weight before a closing bracket.

        After a digit or a space the weight needs a decimal point: ratios and times are text.
        """
        last = self.parts[-1][0]
        head, colon, number = last.rpartition(":")
        before = "".join(text for text, _ in self.parts[first + 1 : -1]) + head
        if not colon or not _NUMBER.fullmatch(number) or not before.strip() or before[-1] == ":":
            return None
        doubtful = before[-1].isdigit() or before[-1].isspace()
        return None if doubtful and "." not in number else float(number)

    def _glued(self, start: int) -> bool:
        return start > 0 and (self.text[start - 1].isalnum() or self.text[start - 1] == "_")

    def _accept(self, weight: float, mark: str) -> bool:
        fits = 0 <= weight <= MAX_WEIGHT
        (self.marks if fits else self.rejected).append(mark)
        return fits

    def _multiply(self, first: int, weight: float) -> None:
        """Remove the bracket that is part `first` and weigh all parts after it."""
        self.parts[first:] = [(text, own * weight) for text, own in self.parts[first + 1 :]]


def _power(signs: str) -> float:
    return float((_STRONGER if signs[0] == "+" else _WEAKER) ** len(signs))
