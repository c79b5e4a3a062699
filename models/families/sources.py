"""Sources of models, and what their loaders share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, MutableMapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from models.load_options import DEFAULTS, LoadOptions
from models.pack import Pack
from models.protocols import Embedder, Scorer
from models.protocols.readings import ReadText, read_as_is
from models.protocols.scoring import LAYOUT
from models.reading.front import TextFront

if TYPE_CHECKING:
    from models.runtime.placement import DevicePlacement

Mode: TypeAlias = Literal["auto", "native", "gate"]
"""Who makes the steps of a pipeline.

`native`: the family's own loop. `gate`: the stock pipeline behind the gate. `auto`: native if there is such a loop.
"""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME on the hub."""

LOCAL = "local-dir:"
HPS, AESTHETIC, VLM = "hps:", "aesthetic:", "vlm:"
REMOTE = ("openai:", "a1111:", "frontrunner:")
_PREFIXES = (HPS, AESTHETIC, VLM, LAYOUT, *REMOTE)


@dataclass(frozen=True, slots=True)
class Source:
    """A model's name and the pack that it refers to, if any.

    `checksums` is done when the pack's files are verified. `called` is another name for answers and errors.
    """

    name: str
    pack: Pack | None = None
    checksums: Future[None] | None = None
    called: str = ""

    @property
    def label(self) -> str:
        """The model's name in answers and errors.

        Of a local path only the last part, of an endpoint only the model.
        """
        if self.called:
            return self.called
        if prefix := self.prefix:
            place = Source(self.place)
            return (prefix + (place.name.partition("#")[2] if "://" in place.name else place.label)).rstrip(":")
        bare = self.name.removeprefix(LOCAL)
        if bare != self.name or Path(bare).is_absolute() or Path(bare).exists():
            return Path(bare).name
        architecture, _, weights = self.name.partition("/")
        return f"{architecture}/{Path(weights).name}" if weights.startswith("/") else self.name

    @property
    def prefix(self) -> str:
        """The kind of model before the name, such as `hps:`; empty for none."""
        return next((prefix for prefix in _PREFIXES if self.name.startswith(prefix)), "")

    @property
    def place(self) -> str:
        """The name without its prefix, and without the embedder of an aesthetic head."""
        place = self.name.removeprefix(self.prefix)
        return place.partition("@")[0] if self.prefix == AESTHETIC else place

    @property
    def folder(self) -> Path | None:
        """The folder of that name, if there is one."""
        return Path(self.place) if Path(self.place).is_dir() else None

    def verified_pack(self) -> Pack | None:
        """The pack, after its files were verified. Raises PackCorrupt and ModelNotFound."""
        if self.checksums is not None:
            self.checksums.result()
        return self.pack


class SharedScorers:
    """Scorers that the models of one process share, while one of them holds them.

    They are the same only on one device, in one number format and with the same limits of endpoints.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, MutableMapping[str, Embedder | Scorer]] = {}

    def of(self, device: str, options: LoadOptions) -> MutableMapping[str, Embedder | Scorer]:
        """Scorers by name, for models that load them with these options."""
        return self._held.setdefault((device, options.dtype, options.endpoint), WeakValueDictionary())


def device_name(device: str) -> str:
    """The one name of a device that has several; as given while torch is not imported."""
    if "torch" not in sys.modules:
        return device
    from models.runtime import placement

    return placement.device_name(device)


class LoadContext:
    """What loaders share.

    Device, mode, preview decoder, text encoders of packs, and the scorers that are loaded.
    """

    def __init__(
        self,
        device: str,
        mode: Mode,
        preview_decoder: str | None,
        options: LoadOptions = DEFAULTS,
        shared: SharedScorers | None = None,
    ) -> None:
        self.mode = mode
        self.preview_decoder = preview_decoder
        self.options = options
        self._device = device
        self._text_encoders: dict[Path, Any] = {}
        self._text_fronts: dict[Path, ReadText] = {}
        self._shared = shared

    @cached_property
    def scorers(self) -> MutableMapping[str, Embedder | Scorer]:
        """Scorers by name that are loaded on the device; after the libraries are imported."""
        return {} if self._shared is None else self._shared.of(device_name(self._device), self.options)

    @cached_property
    def placement(self) -> DevicePlacement:
        """The device. Raises ModelUnsupported if it is not available.

        The first use imports torch and sets the thread counts of the process.
        """
        from models.runtime import placement

        placement.prepare_process()
        return placement.select_device(self._device, self.options.dtype)

    def text_encoder(self, pack: Pack) -> Any:
        """The pack's text encoder, which its generator and its scorer share."""
        from models.runtime.placement import load_text_encoder

        if pack.folder not in self._text_encoders:
            self._text_encoders[pack.folder] = load_text_encoder(pack, self.placement)
        return self._text_encoders[pack.folder]

    def text_front(self, pack: Pack) -> ReadText:
        """What reads texts for the pack's models; both share it."""
        if pack.words is None:
            return read_as_is
        if pack.folder not in self._text_fronts:
            vocabulary = pack.text_encoder_folder() / "vocab.txt"
            styles = pack.styles.phrases if pack.styles is not None else ()
            self._text_fronts[pack.folder] = TextFront(pack.words, vocabulary, styles).read
        return self._text_fronts[pack.folder]


Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Family(Generic[Model]):
    """A kind of model: which sources it accepts, and how it loads one.

    `accepts` decides without reading weights. `load` raises the errors of `models.errors`.
    """

    name: str
    accepts: Callable[[Source], bool]
    load: Callable[[LoadContext, Source], Model]
    needs_torch: bool = True


def family_of(families: tuple[Family[Model], ...], source: Source) -> Family[Model]:
    """The first family that accepts a source; the last of a table accepts all."""
    return next(family for family in families if family.accepts(source))


def named_errors(context: LoadContext, kind: str, source: Source) -> AbstractContextManager[None]:
    """Turn the libraries' errors into errors that name the model."""
    from models.runtime import load_errors

    missing = "not on the hub, or the hub is unreachable; check its name and your connection, or use a folder"
    place = Path(source.place)
    if place.exists() or place.is_absolute():
        missing = "a file is missing or unreadable; download or save it again"
    return load_errors.named_errors(f"{kind} {source.label!r}", missing=missing, device=context.placement.device)


def is_any(source: Source) -> bool:  # noqa: ARG001
    """Accept every source; for the last family of a table."""
    return True
