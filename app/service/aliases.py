"""Aliases: model names of other services, mapped to loaded models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from app.domain import Notice
from app.errors import WrongModelKind

LOADED = "*"
"""Target of an alias for the loaded model, or for the default one of several."""

GENERATORS = ("gpt-image-*", "chatgpt-image-*", "dall-e-*")
"""OpenAI's names of image models."""

SCORERS = ("text-embedding-*", "rerank-*", "jina-*")
"""OpenAI's names of embedding models, Cohere's and Jina's of re-rankers."""

DEFAULT = ",".join(f"{name}={LOADED}" for name in (*GENERATORS, *SCORERS))
"""The default aliases."""


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Ids of the generator and the scorer of requests that name none.

    A pack may be both. `generators` are those of all models of the process, if it serves several; `scorers` are all
    further ones with embeddings that may rank.
    """

    generator: str
    scorer: str
    generators: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()


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

    def generator(self, name: str | None, loaded: LoadedModels) -> tuple[str | None, tuple[Notice, ...]]:
        """The generator for `name`, with a notice if `name` is an alias.

        A name without an alias is returned. Raises WrongModelKind for a scorer.
        """
        known = (loaded.generator, *loaded.generators)
        return self._resolve(name, known, (loaded.scorer, *loaded.scorers), makes_images=True)

    def scorer(self, name: str | None, loaded: LoadedModels) -> tuple[str | None, tuple[Notice, ...]]:
        """The same for a scorer."""
        known = (loaded.scorer, *loaded.scorers)
        return self._resolve(name, known, (loaded.generator, *loaded.generators), makes_images=False)

    def loaded(self, name: str, loaded: LoadedModels) -> str:
        """The loaded model for `name` on any route; `name` itself if it is no alias."""
        target = next((target for pattern, target in self.targets.items() if fnmatchcase(name, pattern)), name)
        if target != LOADED:
            return target
        return loaded.scorer if _makes_images(name) is False else loaded.generator

    def _resolve(
        self, name: str | None, known: Sequence[str], other: Collection[str], *, makes_images: bool
    ) -> tuple[str | None, tuple[Notice, ...]]:
        """Resolve a name; `known` are the models of the wanted kind, the default first."""
        if name is None or name in known:
            return name, ()
        target = next((target for pattern, target in self.targets.items() if fnmatchcase(name, pattern)), name)
        wrong_kind = target in other and target not in known
        if wrong_kind or (target == LOADED and _makes_images(name) not in (None, makes_images)):
            accepted = [*map(repr, dict.fromkeys(known)), *self._names(known, makes_images=makes_images)]
            found, used = ("compares texts and images", "makes images")[:: 1 if makes_images else -1]
            raise WrongModelKind(
                f"{name!r} is a model that {found}, but this route uses one that {used}: "
                f"send {' or '.join(accepted)}, or omit the field",
                pointer="#/model",
            )
        if target == name:
            return name, ()
        model = known[0] if target == LOADED else target
        return model, (
            Notice("model_aliased", f"{name!r} is an alias of {model!r}", {"param": "model", "model": model}),
        )

    def _names(self, known: Collection[str], *, makes_images: bool) -> list[str]:
        """Aliases that a route for this kind of model takes."""
        targets = self.targets.items()
        return [
            name
            for name, target in targets
            if target in known or (target == LOADED and _makes_images(name) in (None, makes_images))
        ]


def _makes_images(name: str) -> bool | None:
    """Whether a name of another service is an image model's; None if unknown."""
    if any(fnmatchcase(name, pattern) for pattern in GENERATORS):
        return True
    return False if any(fnmatchcase(name, pattern) for pattern in SCORERS) else None
