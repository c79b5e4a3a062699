"""Near misses of a prompt: texts that differ in what CLIP confuses. Pure.

Colours change places, the things they belong to change places, a single colour becomes others, left and right swap
(TextNorm, Kim et al. 2024, arXiv 2404.01863). English words only; a prompt without them has no near misses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embeddings

MAX_NEAR_MISSES = 4
"""Maximum texts per prompt."""

COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "black", "white", "grey")
"""Colours that change places.

A single one is replaced by the two that follow it here by three and by six places.
"""

_OPPOSITES = (("left", "right"), ("above", "below"), ("top", "bottom"))
_JOINS = re.compile(
    "and|or|on|in|at|of|with|under|over|above|below|beside|behind|near|next|to|between|inside|by|from|into|onto|against"
    "|holding|wearing|riding|left|right|top|bottom|front"
)
_DETERMINERS = re.compile("an?|the|one|two|three|four|five|some|his|her|its|their|my")
_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


def near_misses(prompt: str) -> tuple[str, ...]:
    """At most `MAX_NEAR_MISSES` different texts that are nearly the prompt.

    Empty if the rules find none.
    """
    found = dict.fromkeys(text for text in _variants(prompt) if text.lower() != prompt.lower())
    return tuple(found)[:MAX_NEAR_MISSES]


def contrast_terms(images: Embeddings, misses: Embeddings, logit_scale: float) -> NDArray[np.float32]:
    """What near misses (C, D) subtract from the scores of images (B, D): float32 (B,).

    The soft maximum of their cosines, `log(mean(exp(scale * cos))) / scale`: between their mean and the largest.
    """
    cosines = np.stack([np.multiply(images, miss).sum(axis=1) for miss in misses], axis=1).astype(np.float64)
    top = cosines.max(axis=1)
    soft = top + np.log(np.exp(logit_scale * (cosines - top[:, None])).mean(axis=1)) / logit_scale
    return np.asarray(soft, np.float32)


def _variants(prompt: str) -> Iterator[str]:
    words = list(_WORD.finditer(prompt))
    colours = [w for w in words if _colour(w.group()) is not None]
    different = [w for w in colours if _colour(w.group()) != _colour(colours[0].group())]
    if different:
        yield _swapped(prompt, colours[0], different[0])
    heads = _heads(prompt, words)
    for first, second in pairwise(heads):
        if first.group().lower() != second.group().lower():
            yield _swapped(prompt, first, second)
    for one, other in _OPPOSITES:
        if any(w.group().lower() in {one, other} for w in words):
            yield _replaced(prompt, words, {one: other, other: one})
    if colours and not different:
        place = COLOURS.index(_colour(colours[0].group()) or "")
        for step in (3, 6):
            other = COLOURS[(place + step) % len(COLOURS)]
            yield _replaced(prompt, colours, {w.group().lower(): other for w in colours})


def _colour(word: str) -> str | None:
    lower = word.lower().replace("gray", "grey")
    return lower if lower in COLOURS else None


def _heads(prompt: str, words: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The last word of each noun phrase.

    It stands before a joining word, a comma or the end.
    """
    heads = []
    for word, following in zip(words, [*words[1:], None], strict=True):
        text = word.group().lower()
        if _JOINS.fullmatch(text) or _DETERMINERS.fullmatch(text) or _colour(text):
            continue
        gap = prompt[word.end() : following.start()] if following is not None else "."
        if gap.strip() or (following is not None and _JOINS.fullmatch(following.group().lower())):
            heads.append(word)
    return heads


def _swapped(prompt: str, first: re.Match[str], second: re.Match[str]) -> str:
    parts = (prompt[: first.start()], second.group(), prompt[first.end() : second.start()], first.group())
    return "".join((*parts, prompt[second.end() :]))


def _replaced(prompt: str, words: Sequence[re.Match[str]], instead: dict[str, str]) -> str:
    text, at = "", 0
    for word in words:
        text += prompt[at : word.start()] + instead.get(word.group().lower(), word.group())
        at = word.end()
    return text + prompt[at:]
