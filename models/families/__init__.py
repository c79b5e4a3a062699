"""Families of models: which names each family loads, and how.

`GENERATORS` and `SCORERS` are tried in order; the first family that accepts a source loads it. One entry adds a family.
`NATIVE_LOOPS` maps a pipeline class of diffusers to an adapter with its own loop. Loaders import torch when they are
called. Scorers are in `scorers`, what loaders share in `sources`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelNotFound, ModelUnsupported
from models.families.scorers import SCORER_ALIASES as SCORER_ALIASES
from models.families.scorers import SCORERS as SCORERS
from models.families.scorers import load_scorer as load_scorer
from models.families.scorers import offered as offered
from models.families.scorers import scorer_needs_torch as scorer_needs_torch
from models.families.sources import HUB_ID, REMOTE, is_any, named_errors
from models.families.sources import Family as Family
from models.families.sources import LoadContext as LoadContext
from models.families.sources import Mode as Mode
from models.families.sources import SharedScorers as SharedScorers
from models.families.sources import Source as Source
from models.families.sources import family_of as family_of
from models.generators.families import FAMILIES as NATIVE_FAMILIES
from models.pack import packs
from models.protocols import StepwiseGenerator
from models.protocols.upscaling import Upscaler
from models.synthetic.generator import FakeGenerator
from models.synthetic.upscaler import FakeUpscaler

if TYPE_CHECKING:
    from models.runtime.placement import DevicePlacement

log = logging.getLogger(__name__)

FAKE = "fake"
"""Name of the synthetic models."""

# diffusers


def _load_diffusers(context: LoadContext, source: Source) -> StepwiseGenerator:
    placement = context.placement
    from models.generators import pipelines
    from models.generators.adapters import Adapters

    decoder = None
    if context.preview_decoder is not None:
        preview = Source(context.preview_decoder)
        with named_errors(context, "preview decoder", preview):
            decoder = pipelines.load_preview_decoder(preview.name, placement)
    pack = source.verified_pack()
    options: dict[str, Any] = {"id": source.label, "preview_decoder": decoder}
    check_generator(source)
    if pack is not None:
        options |= {
            "id": source.called or pack.id,
            "revision": pack.revision,
            "defaults": pack.manifest["generator"]["defaults"],
        }
        options |= {"read": context.text_front(pack), "styles": pack.styles}
    folder = pack.generator if pack else source.folder
    hub_id = "" if folder else _hub_id(source)
    with named_errors(context, "generator", source):
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


def check_generator(source: Source) -> None:
    """Check what is known of a generator of diffusers before it loads.

    Raises ModelUnsupported for a pack without one, ModelNotFound for what is neither a folder nor a hub id.
    """
    if source.pack is not None and not source.pack.has_generator:
        raise ModelUnsupported(
            f"{source.label!r} is a scorer: name it in FRONTRUNNER_SCORERS, and another model in FRONTRUNNER_GENERATOR"
        )
    if source.pack is None and source.folder is None:
        _hub_id(source)


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
    if not HUB_ID.fullmatch(source.name):
        known = ", ".join((FAKE, *(name for name, pack in packs().items() if pack.has_generator)))
        raise ModelNotFound(
            f"generator {source.label!r} not found; use a folder, a hub id OWNER/NAME or one of {known}"
        )
    return source.name


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

    with named_errors(context, "upscaler", source):
        if Path(name).suffix.lower() in model_files.SUFFIXES:
            return model_files.ModelFileUpscaler(hub.find_file(name), placement, tile)
        if source.folder is None and not HUB_ID.fullmatch(name):
            suffixes = ", ".join(model_files.SUFFIXES)
            raise ModelNotFound(f"not found; use a file ({suffixes}), a folder or a hub id")
        return pipelines.PipelineUpscaler(source.folder or name, source.label, placement, tile)


def _load_remote(context: LoadContext, source: Source) -> StepwiseGenerator:
    from models.generators.remote.addresses import parse_address
    from models.generators.remote.generator import RemoteGenerator

    if context.preview_decoder is not None:
        raise ModelUnsupported("a remote generator has no previews; unset FRONTRUNNER_PREVIEW_DECODER")
    return RemoteGenerator(parse_address(source.name), context.options.remote, called=source.called)


def _is_fake(source: Source) -> bool:
    return source.name == FAKE


NATIVE_LOOPS: Mapping[str, Callable[..., StepwiseGenerator]] = dict.fromkeys(NATIVE_FAMILIES, _native)
"""Adapters with a native loop, by pipeline class.

Each is called with pipeline and placement, and by name with `id`, `preview_decoder` and, for packs, `revision` and
`defaults`, and `long_prompts`. It may raise ModelUnsupported: mode `auto` then uses the gate.
"""

_OWN_SAMPLERS = [name for name, family in NATIVE_FAMILIES.items() if family.startswith("stable_diffusion.")]
"""Pipelines whose native loops make the steps of samplers themselves."""

GENERATORS: tuple[Family[StepwiseGenerator], ...] = (
    Family("synthetic", _is_fake, lambda _context, source: FakeGenerator(id=source.label), needs_torch=False),
    Family("remote", lambda source: source.prefix in REMOTE, _load_remote, needs_torch=False),
    Family("diffusers", is_any, _load_diffusers),
)
"""Families of generators, first match wins."""
