"""Packs on disk: the manifest `pack.json` and the verification of files.

Owns finding packs, their checksums and the folder of the packaged text encoder. Torch-free; it loads no weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ModelNotFound, PackCorrupt
from models.protocols.styles import Styles

MANIFEST = "pack.json"
PACKS = Path(__file__).parent / "packs"
SECOND = "-second"
"""What the name of a pack's second scorer ends with."""
_TEXT_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Pack:
    """A folder with a generator, a scorer and a manifest.

    `revision` changes with the version or any weight, `scorer_revision` only with the scorer. Another word list
    changes neither, so that stored embeddings stay comparable. `second` is a pack of the same folder that holds a
    scorer only.
    """

    id: str
    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Pack:
        """The pack in a folder. Raises PackCorrupt for an unreadable manifest."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            return cls(manifest["id"], folder, manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PackCorrupt(f"pack {folder.name!r}: cannot read {MANIFEST}") from error

    @property
    def second(self) -> Pack | None:
        """The second scorer, named ID-second; None if there is none.

        It has a revision and files of its own.
        """
        part = self.manifest.get("second")
        if part is None:
            return None
        shared = {name: self.manifest[name] for name in ("version", "text_encoder", "words") if name in self.manifest}
        try:
            own = {"scorer": part, "files": part["files"], "styles": self.manifest.get("generator", {}).get("styles")}
            return Pack(f"{self.id}{SECOND}", self.folder, shared | own)
        except (KeyError, TypeError) as error:
            raise PackCorrupt(f"pack {self.id!r}: the entry second of {MANIFEST} lists no files") from error

    @property
    def has_generator(self) -> bool:
        """Whether it is more than a scorer."""
        return "generator" in self.manifest

    @property
    def generator(self) -> Path:
        """The diffusers folder."""
        return self.folder / str(self.manifest["generator"]["folder"])

    @property
    def scorer(self) -> Path:
        """The open_clip folder."""
        return self.folder / str(self.manifest["scorer"]["folder"])

    @property
    def words(self) -> Path | None:
        """The words of its text front, see `models.reading`; None if it has none."""
        part = self.manifest.get("words")
        return None if part is None else self.folder / str(part["file"])

    @property
    def styles(self) -> Styles | None:
        """The styles that its prompts can name; None if its manifest lists none.

        A pack that is a scorer only lists them beside the scorer.
        """
        entry = self.manifest.get("generator", self.manifest).get("styles")
        return None if entry is None else Styles.from_json(entry)

    @property
    def text_encoder(self) -> Mapping[str, Any]:
        """The manifest's section on the packaged text encoder."""
        part: Mapping[str, Any] = self.manifest["text_encoder"]
        return part

    @property
    def revision(self) -> str:
        """Version and a digest of all checksums of weights."""
        return f"{self.manifest['version']}-{self._digest(self.manifest['files'])}"

    @property
    def scorer_revision(self) -> str:
        """A digest of what decides its scores.

        It is equal in packs with the same scorer, so that images of another generator can be ranked again.
        """
        folder = f"{self.manifest['scorer']['folder']}/"
        return self._digest({n: each for n, each in self.manifest["files"].items() if n.startswith(folder)})

    def _digest(self, files: Mapping[str, str]) -> str:
        promised = json.dumps([files, self.text_encoder], sort_keys=True)
        return hashlib.sha256(promised.encode()).hexdigest()[:12]

    def text_encoder_folder(self) -> Path:
        """Folder of the text encoder inside its package, which is not imported.

        Raises ModelNotFound if the package is not installed.
        """
        spec = importlib.util.find_spec(str(self.text_encoder["package"]))
        if spec is None or not spec.submodule_search_locations:
            raise ModelNotFound(
                f"pack {self.id!r} needs a package: run pip install {self.text_encoder['distribution']}"
            )
        return Path(spec.submodule_search_locations[0]) / str(self.text_encoder["folder"])

    def verify(self) -> None:
        """Compare every file with its checksum. Raises PackCorrupt or ModelNotFound."""
        for name, promised in self.manifest["files"].items():
            self._compare(self.folder / name, name, promised)
        if self.words is not None:
            self._compare(self.words, self.words.name, self.manifest["words"]["sha256"])
        weights = self.text_encoder_folder() / _TEXT_WEIGHTS
        self._compare(weights, f"{self.text_encoder['package']}/{_TEXT_WEIGHTS}", self.text_encoder["weights_sha256"])

    def _compare(self, path: Path, name: str, promised: str) -> None:
        if not path.is_file():
            raise PackCorrupt(f"pack {self.id!r}: {name} is missing")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != promised:
            raise PackCorrupt(f"pack {self.id!r}: {name} does not match its checksum")


def packs(root: Path = PACKS) -> dict[str, Pack]:
    """The packs below a folder and their second scorers, by id.

    Raises PackCorrupt for an unreadable manifest.
    """
    found = [Pack.read(manifest.parent) for manifest in sorted(root.glob(f"*/{MANIFEST}"))]
    return {each.id: each for pack in found for each in (pack, pack.second) if each is not None}


def pack_in(folder: Path) -> Pack | None:
    """The pack or the second scorer that a folder holds; None for another folder.

    Raises PackCorrupt for an unreadable manifest.
    """
    if (folder / MANIFEST).is_file():
        return Pack.read(folder)
    second = Pack.read(folder.parent).second if (folder.parent / MANIFEST).is_file() else None
    return second if second is not None and second.scorer.resolve() == folder.resolve() else None
