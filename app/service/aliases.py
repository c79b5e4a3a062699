"""Aliases: model names of other services, mapped to loaded models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from app.domain import Notice

LOADED = "*"
"""Target of an alias for the loaded model."""

OPENAI_IMAGES = f"gpt-image-*={LOADED},chatgpt-image-*={LOADED},dall-e-*={LOADED}"
"""OpenAI's names of image models."""

OPENAI_EMBEDDINGS = f"text-embedding-*={LOADED}"
"""OpenAI's names of embedding models."""

RERANKERS = f"rerank-*={LOADED},jina-*={LOADED}"
"""Cohere's and Jina's names of re-rankers."""

DEFAULT = f"{OPENAI_IMAGES},{OPENAI_EMBEDDINGS},{RERANKERS}"
"""The default aliases."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """Targets by name.

    A name may be a pattern such as `gpt-image-*`. The first match counts.
    """

    targets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Aliases:
        """Parse `name=model` entries, separated by commas. Raises ValueError."""
        targets: dict[str, str] = {}
        for entry in (part.strip() for part in text.split(",") if part.strip()):
            name, _, target = (part.strip() for part in entry.partition("="))
            if not name or not target:
                raise ValueError(f"the entry {entry!r} must be name=model, or name={LOADED} for the loaded model")
            if name in targets:
                raise ValueError(f"the name {name!r} is repeated: list it once")
            targets[name] = target
        return cls(targets)

    def dangling(self, loaded: Collection[str]) -> list[str]:
        """Entries whose target is not a loaded model."""
        return [f"{name}={target}" for name, target in self.targets.items() if target not in {LOADED, *loaded}]

    def resolve(self, name: str | None, loaded: str) -> tuple[str | None, tuple[Notice, ...]]:
        """The loaded model for `name`, with a notice if `name` is an alias."""
        if name is None or name == loaded:
            return name, ()
        target = next((target for pattern, target in self.targets.items() if fnmatchcase(name, pattern)), None)
        if target is None:
            return name, ()
        model = loaded if target == LOADED else target
        return model, (
            Notice("model_aliased", f"{name!r} is an alias of {model!r}", {"param": "model", "model": model}),
        )
