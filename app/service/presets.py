"""Words worth trying, from a file that users may edit, and what they tell of the phrases of a prompt."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

DEFAULT_PRESETS_PATH = Path(__file__).with_name("presets.toml")
"""The file that is read unless a setting names another."""

_FRAMING_GROUP = "framing"
_SEPARATORS = re.compile(
    r"\s*[,;\n]\s*|\s+(?:and|but|or|with|while)\s+|\.\s+"
    r"|\s+(?=(?:on|against|in front of) (?:an? |the )?(?:[\w-]+ ){0,3}background\b)",
    re.IGNORECASE,
)


class Aspect(StrEnum):
    """What a phrase is about."""

    CONTENT = "content"
    STYLE = "style"
    COMPOSITION = "composition"


@dataclass(frozen=True, slots=True)
class Preset:
    """Words to add to a prompt and to a negative prompt; `words` recognise its like in other prompts."""

    group: str
    name: str
    prompt: str
    negative: str = ""
    words: tuple[str, ...] = ()

    @property
    def aspect(self) -> Aspect:
        """What its words are about."""
        return Aspect.COMPOSITION if self.group == _FRAMING_GROUP else Aspect.STYLE


@dataclass(frozen=True, slots=True)
class Presets:
    """All of them, in the file's order."""

    items: tuple[Preset, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a TOML file of `[[preset]]` tables. Raises ValueError with a sentence that names what is wrong."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path.name} cannot be read") from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path.name} is not TOML: {error}") from error
        tables = found.get("preset", [])
        if not isinstance(tables, list) or set(found) - {"preset"}:
            raise ValueError(f"{path.name} must hold [[preset]] tables and nothing else")
        return cls(tuple(_preset(table, f"{path.name}, preset {place}") for place, table in enumerate(tables, 1)))

    def aspect(self, phrase: str) -> Aspect:
        """What a phrase is about, by the first preset that has one of its words."""
        low = phrase.lower()
        return next((p.aspect for p in self.items if any(word.lower() in low for word in p.words)), Aspect.CONTENT)


def split_phrases(prompt: str) -> list[str]:
    """A prompt cut at commas, ends of sentences, conjunctions and before its background; each phrase once, in order."""
    plain = re.sub(r"[^\S\n]+", " ", prompt)
    return list(dict.fromkeys(part for part in (p.strip(" .") for p in _SEPARATORS.split(plain)) if part))


def _preset(table: Any, where: str) -> Preset:
    if not isinstance(table, dict) or set(table) - {field.name for field in fields(Preset)}:
        raise ValueError(f"{where}: only {', '.join(field.name for field in fields(Preset))} are known")
    words = table.get("words", [])
    texts = [table.get("group"), table.get("name"), table.get("prompt"), table.get("negative", "")]
    if not isinstance(words, list) or not all(isinstance(text, str) for text in (*texts, *words)) or not all(texts[:3]):
        raise ValueError(f"{where}: group, name and prompt must be texts, words a list of texts")
    return Preset(**{**table, "words": tuple(words)})
