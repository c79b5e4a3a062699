"""Model names that clients of other services have built in, and which loaded model they mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from app.domain import Notice

LOADED = "*"
"""Target of an alias that means the loaded model, whichever it is."""

OPENAI_IMAGES = f"gpt-image-*={LOADED},chatgpt-image-*={LOADED},dall-e-*={LOADED}"
"""OpenAI's names of image models."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """Targets by name; a name may be a pattern such as `gpt-image-*`. The first one that fits counts."""

    targets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Aliases:
        """From `name=model` entries, separated by commas. Raises ValueError for one that names nothing."""
        targets: dict[str, str] = {}
        for entry in (part.strip() for part in text.split(",") if part.strip()):
            name, _, target = (part.strip() for part in entry.partition("="))
            if not name or not target:
                raise ValueError(f"the entry {entry!r} must be name=model, or name={LOADED} for the loaded model")
            if name in targets:
                raise ValueError(f"the name {name!r} comes twice")
            targets[name] = target
        return cls(targets)

    def dangling(self, loaded: Collection[str]) -> list[str]:
        """Entries whose target is not among the models that are loaded."""
        return [f"{name}={target}" for name, target in self.targets.items() if target not in {LOADED, *loaded}]

    def resolve(self, name: str | None, loaded: str) -> tuple[str | None, tuple[Notice, ...]]:
        """The model that `name` means on a route served by `loaded`, and a notice where that is another name."""
        if name is None or name == loaded:
            return name, ()
        target = next((target for pattern, target in self.targets.items() if fnmatchcase(name, pattern)), None)
        if target is None:
            return name, ()
        model = loaded if target == LOADED else target
        return model, (Notice("model_aliased", f"{name!r} means {model!r} here", {"param": "model", "model": model}),)
