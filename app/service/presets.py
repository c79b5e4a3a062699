"""Prompt presets from an editable file, and the aspect of a prompt's phrases."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Self

DEFAULT_PRESETS_PATH = Path(__file__).with_name("presets.toml")
"""The default file; a setting can replace it."""

_FRAMING_GROUP = "framing"
_SEPARATORS = re.compile(
    r"\s*[,;\n]\s*|\s+(?:and|but|or|with|while)\s+|\.\s+"
    r"|\s+(?=(?:on|against|in front of) (?:an? |the )?(?:[\w-]+ ){0,3}background\b)",
    re.IGNORECASE,
)


class Aspect(StrEnum):
    """The topic of a phrase."""

    CONTENT = "content"
    STYLE = "style"
    COMPOSITION = "composition"


@dataclass(frozen=True, slots=True)
class Preset:
    """Text for a prompt and a negative prompt; `words` detect the preset in prompts."""

    group: str
    name: str
    prompt: str
    negative: str = ""
    words: tuple[str, ...] = ()

    @property
    def aspect(self) -> Aspect:
        """The topic of the preset's words."""
        return Aspect.COMPOSITION if self.group == _FRAMING_GROUP else Aspect.STYLE


@dataclass(frozen=True, slots=True)
class Presets:
    """All presets, in file order."""

    items: tuple[Preset, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `[[preset]]` tables from a TOML file. Raises ValueError naming the fault."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"{path.name} cannot be read: check that the file exists, is readable and is UTF-8"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path.name} is not TOML: {error}") from error
        tables = found.get("preset", [])
        if not isinstance(tables, list) or set(found) - {"preset"}:
            raise ValueError(f"{path.name} must hold only [[preset]] tables: remove other keys")
        return cls(tuple(_preset(table, f"{path.name}, preset {place}") for place, table in enumerate(tables, 1)))

    def aspect(self, phrase: str) -> Aspect:
        """The topic of a phrase, by the first preset with a matching word."""
        low = phrase.lower()
        return next((p.aspect for p in self.items if any(word.lower() in low for word in p.words)), Aspect.CONTENT)


def split_phrases(prompt: str) -> list[str]:
    """Split a prompt at commas, sentence ends, conjunctions and before its background.

    Each phrase appears once, in order.
    """
    plain = re.sub(r"[^\S\n]+", " ", prompt)
    return list(dict.fromkeys(part for part in (p.strip(" .") for p in _SEPARATORS.split(plain)) if part))


def _preset(table: Any, where: str) -> Preset:
    if not isinstance(table, dict) or set(table) - {field.name for field in fields(Preset)}:
        raise ValueError(f"{where}: unknown key; use only {', '.join(field.name for field in fields(Preset))}")
    words = table.get("words", [])
    texts = [table.get("group"), table.get("name"), table.get("prompt"), table.get("negative", "")]
    if not isinstance(words, list) or not all(isinstance(text, str) for text in (*texts, *words)) or not all(texts[:3]):
        raise ValueError(f"{where}: group, name and prompt must be strings, words a list of strings")
    return Preset(**{**table, "words": tuple(words)})


def preset_wordings(prompt: str, presets: Presets) -> list[str]:
    """The prompt with one preset each, from groups that it does not mention."""
    low, groups = prompt.lower(), dict[str, list[Preset]]()
    for preset in presets.items:
        groups.setdefault(preset.group, []).append(preset)
    mentioned = {p.group for p in presets.items if any(word.lower() in low for word in p.words)}
    turns = zip_longest(*(items for group, items in groups.items() if group not in mentioned))
    return [f"{prompt.rstrip(' .,')}, {p.prompt}" for p in chain.from_iterable(turns) if p is not None and p.prompt]
