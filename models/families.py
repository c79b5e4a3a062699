"""Families of models: which names each family loads, and how.

`GENERATORS` and `SCORERS` are tried in order; the first family that accepts a source loads it. One entry adds a family.
`NATIVE_LOOPS` maps a pipeline class of diffusers to an adapter with its own loop. Loaders import torch when they are
called.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from models.errors import ModelNotFound, ModelUnsupported
from models.generators.families import FAMILIES as NATIVE_FAMILIES
from models.load_options import DEFAULTS, LoadOptions
from models.pack import Pack, packs
from models.protocols import Embedder, Scorer, StepwiseGenerator
from models.protocols.readings import ReadText, read_as_is
from models.protocols.upscaling import Upscaler
from models.reading.front import TextFront
from models.synthetic.generator import FakeGenerator
from models.synthetic.members import SCORER_KINDS
from models.synthetic.upscaler import FakeUpscaler

if TYPE_CHECKING:
    from models.runtime.placement import DevicePlacement

log = logging.getLogger(__name__)

FAKE = "fake"
"""Name of the synthetic models."""

Mode: TypeAlias = Literal["auto", "native", "gate"]
"""Who makes the steps of a pipeline.

`native`: the family's own loop. `gate`: the stock pipeline behind the gate. `auto`: native if there is such a loop.
"""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LOCAL = "local-dir:"


@dataclass(frozen=True, slots=True)
class Source:
    """A model's name and the pack that it refers to, if any.

    `checksums` is done when the pack's files are verified.
    """

    name: str
    pack: Pack | None = None
    checksums: Future[None] | None = None

    @property
    def label(self) -> str:
        """The model's name in answers and errors; of a local path only the last part."""
        bare = self.name.removeprefix(_LOCAL)
        if bare != self.name or Path(bare).is_absolute() or Path(bare).exists():
            return Path(bare).name
        architecture, _, weights = self.name.partition("/")
        return f"{architecture}/{Path(weights).name}" if weights.startswith("/") else self.name

    @property
    def folder(self) -> Path | None:
        """The folder of that name, if there is one."""
        return Path(self.name) if Path(self.name).is_dir() else None

    def verified_pack(self) -> Pack | None:
        """The pack, after its files were verified. Raises PackCorrupt and ModelNotFound."""
        if self.checksums is not None:
            self.checksums.result()
        return self.pack


class LoadContext:
    """What loaders share: device, mode, preview decoder, text encoders of packs."""

    def __init__(self, device: str, mode: Mode, preview_decoder: str | None, options: LoadOptions = DEFAULTS) -> None:
        self.mode = mode
        self.preview_decoder = preview_decoder
        self.options = options
        self._device = device
        self._text_encoders: dict[Path, Any] = {}
        self._text_fronts: dict[Path, ReadText] = {}

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
            self._text_fronts[pack.folder] = TextFront(pack.words, vocabulary).read
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


# diffusers


def _load_diffusers(context: LoadContext, source: Source) -> StepwiseGenerator:
    placement = context.placement
    from models.generators import pipelines
    from models.generators.adapters import Adapters

    decoder = None
    if context.preview_decoder is not None:
        preview = Source(context.preview_decoder)
        with _named_errors(context, "preview decoder", preview):
            decoder = pipelines.load_preview_decoder(preview.name, placement)
    pack = source.verified_pack()
    options: dict[str, Any] = {"id": source.label, "preview_decoder": decoder}
    if pack is not None:
        options |= {"id": pack.id, "revision": pack.revision, "defaults": pack.manifest["generator"]["defaults"]}
        options |= {"read": context.text_front(pack), "styles": pack.styles}
    folder = pack.generator if pack else source.folder
    hub_id = "" if folder else _hub_id(source)
    with _named_errors(context, "generator", source):
        place = folder or pipelines.fetch(hub_id)
        kind = pipelines.kind_of(place)
        if context.mode == "native" and kind not in NATIVE_LOOPS:
            raise ModelUnsupported(
                f"the pipeline {kind} has no native loop; set FRONTRUNNER_GENERATOR_MODE to auto or gate"
            )
        loading = context.options
        pipe, revision = pipelines.load(place, placement, context.text_encoder(pack) if pack else None, loading)
        if revision is not None:
            options["revision"] = revision
        if decoder is not None:
            pipelines.check_preview_decoder(decoder, pipe)
        options["adapters"] = Adapters(pipe, context.options.loras, own_texts=pack is None)
        return _with_loop(context, kind, pipe, options)


def _with_loop(context: LoadContext, kind: str, pipe: Any, options: Mapping[str, Any]) -> StepwiseGenerator:
    """The pipeline behind its native loop, or behind the gate, as the mode requires.

    ControlNets run behind the gate.
    """
    loading, long_prompts = context.options, context.options.long_prompts
    if loading.controls and context.mode == "native":
        raise ModelUnsupported("ControlNets have no native loop; set FRONTRUNNER_GENERATOR_MODE to auto or gate")
    placement = context.placement.untraced() if loading.changes_modules else context.placement
    native = kind in NATIVE_LOOPS and context.mode != "gate" and not loading.controls
    if long_prompts == "chunks" and not native:
        raise ModelUnsupported(
            "only the native loops of Stable Diffusion and SDXL read long prompts in chunks, without ControlNets; "
            "set FRONTRUNNER_LONG_PROMPTS to truncate"
        )
    if native:
        try:
            return NATIVE_LOOPS[kind](pipe, placement, long_prompts=long_prompts, **options)
        except ModelUnsupported as error:
            if context.mode == "native" or long_prompts == "chunks":
                raise
            log.warning("the generator runs behind the gate: %s", error)
    if kind in _OWN_SAMPLERS:  # else the same folder would have other defaults than on its native loop
        from models.generators.samplers import tabled

        pipe.scheduler = tabled(pipe.scheduler)
    from models.generators.control import load_nets
    from models.generators.gate.generator import PipelineGate

    nets = load_nets(context.options.controls, pipe, context.placement)
    return PipelineGate(pipe, placement, nets=nets, **options)


def _native(pipe: Any, placement: DevicePlacement, **options: Any) -> StepwiseGenerator:
    from models.generators.native import NativeGenerator

    return NativeGenerator(pipe, placement, **options)


def _hub_id(source: Source) -> str:
    if Path(source.name).is_file():
        raise ModelUnsupported(
            f"generator {source.label!r} is a single file; save it as a folder with `save_pretrained` of diffusers"
        )
    if not _HUB_ID.fullmatch(source.name):
        known = ", ".join((FAKE, *packs()))
        raise ModelNotFound(
            f"generator {source.label!r} not found; use a folder, a hub id OWNER/NAME or one of {known}"
        )
    return source.name


def _named_errors(context: LoadContext, kind: str, source: Source) -> AbstractContextManager[None]:
    """Turn the libraries' errors into errors that name the model."""
    from models.runtime.load_errors import named_errors

    missing = "not on the hub, or the hub is unreachable; check its name and your connection, or use a folder"
    if source.folder or Path(source.name).is_absolute():
        missing = "a file is missing or unreadable; download or save it again"
    return named_errors(f"{kind} {source.label!r}", missing=missing, device=context.placement.device)


# open_clip


def _load_open_clip(context: LoadContext, source: Source) -> Embedder:
    placement = context.placement
    from models.scorers import open_clip

    name = f"{_LOCAL}{source.name}" if source.folder else source.name
    return open_clip.load_open_clip(name, source.label, placement)


def _load_pack_scorer(context: LoadContext, source: Source) -> Embedder:
    placement, pack = context.placement, source.verified_pack()
    from models.scorers import open_clip

    assert pack is not None
    return open_clip.load_pack(pack, context.text_encoder(pack), placement, context.text_front(pack))


# upscalers


def load_upscaler(context: LoadContext) -> Upscaler | None:
    """The upscaler of the options: a model file, a folder or a hub id; None for none.

    Raises ModelNotFound and ModelUnsupported.
    """
    name, tile = context.options.upscaler, context.options.upscaler_tile
    if name in {"", FAKE}:
        return FakeUpscaler() if name else None
    source, placement = Source(name), context.placement
    from models.runtime import hub
    from models.upscalers import model_files, pipelines

    with _named_errors(context, "upscaler", source):
        if Path(name).suffix.lower() in model_files.SUFFIXES:
            return model_files.ModelFileUpscaler(hub.find_file(name), placement, tile)
        if source.folder is None and not _HUB_ID.fullmatch(name):
            suffixes = ", ".join(model_files.SUFFIXES)
            raise ModelNotFound(f"not found; use a file ({suffixes}), a folder or a hub id")
        return pipelines.PipelineUpscaler(source.folder or name, source.label, placement, tile)


def _is_fake(source: Source) -> bool:
    return source.name == FAKE


def _is_synthetic_scorer(source: Source) -> bool:
    return source.name in SCORER_KINDS


def _is_pack(source: Source) -> bool:
    return source.pack is not None


def _is_any(source: Source) -> bool:  # noqa: ARG001
    return True


NATIVE_LOOPS: Mapping[str, Callable[..., StepwiseGenerator]] = dict.fromkeys(NATIVE_FAMILIES, _native)
"""Adapters with a native loop, by pipeline class.

Each is called with pipeline and placement, and by name with `id`, `preview_decoder` and, for packs, `revision` and
`defaults`, and `long_prompts`. It may raise ModelUnsupported: mode `auto` then uses the gate.
"""

_OWN_SAMPLERS = [name for name, family in NATIVE_FAMILIES.items() if family.startswith("stable_diffusion.")]
"""Pipelines whose native loops make the steps of samplers themselves."""

GENERATORS: tuple[Family[StepwiseGenerator], ...] = (
    Family("synthetic", _is_fake, lambda _context, _source: FakeGenerator(), needs_torch=False),
    Family("diffusers", _is_any, _load_diffusers),
)
"""Families of generators, first match wins."""

SCORERS: tuple[Family[Embedder | Scorer], ...] = (
    Family("synthetic", _is_synthetic_scorer, lambda _, source: SCORER_KINDS[source.name](), needs_torch=False),
    Family("pack", _is_pack, _load_pack_scorer),
    Family("open_clip", _is_any, _load_open_clip),
)
"""Families of scorers, first match wins."""
