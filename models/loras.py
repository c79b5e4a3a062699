"""LoRA adapters as files in a folder, without torch.

Owns names and settings. An adapter is one `.safetensors` file, or a sub-folder with one; its name is that of the file
without its suffix, or of the sub-folder. How adapters change a model is in `generators.adapters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LORAS = 8
"""Maximum adapters of one generation."""

MAX_WEIGHT = 4.0
"""Largest weight of an adapter, and the largest negative one."""

_SUFFIX = ".safetensors"
_USUAL = f"pytorch_lora_weights{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter of a generation: its name in the folder, and its weight.

    Weight 1.0 is as trained.
    """

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LoraFolder:
    """The adapters of a server.

    Requests that name none get `default`.
    """

    folder: Path
    default: tuple[Lora, ...] = ()

    @classmethod
    def of(cls, folder: Path | None, default: str) -> LoraFolder | None:
        """The folder of the settings; None without one. Raises ValueError as `parse` does."""
        if folder is None:
            if default:
                raise ValueError("LORAS requires LORA_DIR: name the folder of the adapters")
            return None
        if not folder.expanduser().is_dir():
            raise ValueError("LORA_DIR is no folder: name the folder of the LoRA adapters")
        return cls(folder.expanduser().absolute(), parse(default))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters that are in the folder now, sorted."""
        return tuple(sorted(name for name, _ in self._files()))

    def file(self, name: str) -> Path:
        """The file of an adapter. Raises ValueError for an unknown name."""
        found = dict(self._files()).get(name)
        if found is None:
            raise ValueError(f"there is no LoRA adapter {name!r}: use a name that GET /v1/models lists")
        return found

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Names are compared with the folder's entries, so that none can lead out of it."""
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            if path.is_file() and path.suffix == _SUFFIX:
                yield path.stem, path
            elif path.is_dir():
                inside = [each for each in sorted(path.iterdir()) if each.suffix == _SUFFIX and each.is_file()]
                usual = [each for each in inside if each.name == _USUAL]
                if len(usual or inside) == 1:
                    yield path.name, (usual or inside)[0]


def parse(text: str) -> tuple[Lora, ...]:
    """Adapters of a setting such as `film:0.8,ink`; the weight is 1 if omitted.

    Raises ValueError for a name without letters, a wrong weight, a repeated name or too many adapters.
    """
    made = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            value = float(weight or 1.0)
        except ValueError:
            value = math.nan
        if not name.strip() or not abs(value) <= MAX_WEIGHT:
            raise ValueError(
                f"{part!r} is no adapter: use name:weight with a weight of -{MAX_WEIGHT:g}..{MAX_WEIGHT:g}"
            )
        made.append(Lora(name.strip(), value))
    if len({each.name for each in made}) < len(made) or len(made) > MAX_LORAS:
        raise ValueError(f"name each adapter once, and at most {MAX_LORAS}")
    return tuple(made)
