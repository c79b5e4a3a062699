"""The styles of a generator that prompts can name. Without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Spread: TypeAlias = Literal["auto", "on", "off"]
"""Whether open prompts are spread over styles; `auto`: as the generator says."""

_WORD = re.compile(r"[^\W_]+")
_END = " .,;\t\r\n"


@dataclass(frozen=True, slots=True)
class Styles:
    """Styles that a generator was trained with.

    A prompt with one of `phrases` is drawn in that style. `words` in a prompt show that it names a style. `spread` is
    whether candidates of a prompt that names none are spread over the phrases, unless the server decides.
    """

    phrases: tuple[str, ...]
    words: frozenset[str]
    spread: bool = False

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Styles:
        """The styles of a pack's manifest."""
        return cls(tuple(entry["phrases"]), frozenset(entry["words"]), bool(entry["spread"]))

    def decided(self, setting: Spread) -> Styles:
        """These styles with the server's decision."""
        return replace(self, spread={"on": True, "off": False}.get(setting, self.spread))

    def wordings(self, prompt: str) -> tuple[str, ...]:
        """The prompt in every style; none if it names a style itself, or is not spread."""
        if not self.spread or self.words & {word.lower() for word in _WORD.findall(prompt)}:
            return ()
        return tuple(f"{_joined(prompt)}{phrase}" for phrase in self.phrases)

    def made(self, prompt: str, wordings: Sequence[str]) -> bool:
        """Whether the wordings are the prompt in every style, and no texts of a caller."""
        return bool(wordings) and self.decided("on").wordings(prompt) == tuple(wordings)


def style_of(prompt: str, wording: str) -> str:
    """The style phrase in a wording of `Styles.wordings`."""
    return wording.removeprefix(_joined(prompt))


def _joined(prompt: str) -> str:
    """What precedes the phrase in a wording."""
    return f"{prompt.rstrip(_END) or prompt}, "
