"""What a model with a text front understood of a text. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the model was given it.

    `language` is a tag of BCP 47 (`ru-Latn` is Russian in Latin letters), or `emoji`. `understood` is the text that the
    model was given. `corrections` are words and what they were taken for; `ambiguous` are misspelt words with all words
    that they may stand for, of which none was taken. `unknown` words were left out.
    """

    language: str
    understood: str
    corrections: tuple[tuple[str, str], ...] = ()
    ambiguous: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unknown: tuple[str, ...] = ()


ReadText: TypeAlias = Callable[[str], Reading | None]
"""Reads a text; None if the model takes it as it is."""


def read_as_is(text: str) -> None:
    """Reads no text: the model takes every text as it is."""


class _WithReading(Protocol):
    @property
    def reading(self) -> Reading | None: ...


Encoded = TypeVar("Encoded", bound=_WithReading)


def encode_as_read(
    texts: Sequence[str], read: ReadText, encode: Callable[[list[str]], Sequence[Encoded]]
) -> list[Encoded]:
    """Encode what was understood of each text; the results say what that was."""
    readings = [read(text) for text in texts]
    if not any(readings):
        return list(encode(list(texts)))
    understood = [text if each is None else each.understood for text, each in zip(texts, readings, strict=True)]
    return [
        replace(each, reading=reading)  # type: ignore[type-var]
        for each, reading in zip(encode(understood), readings, strict=True)
    ]
