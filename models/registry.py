"""From names to loaded models.

Owns the order of loading, the packs behind the names and the choice of calibration. How a family is loaded is in
`families`. torch is imported only if a family needs it; nothing is downloaded unless you name a hub id.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from models import calibration_io, ensembles, families
from models.errors import ModelNotFound, ModelUnsupported, PackCorrupt
from models.families import Family, LoadContext, Mode, SharedScorers, Source
from models.load_options import DEFAULTS, LoadOptions
from models.pack import Pack, pack_in, packs
from models.protocols import Calibration, Embedder, Models, Scorer, StepwiseGenerator
from models.steering import find_steering

log = logging.getLogger(__name__)

WEIGHT_SUFFIXES = {".safetensors", ".bin", ".gguf", ".pt", ".ckpt"}

_Chosen: TypeAlias = tuple[Family[StepwiseGenerator], Source]


def load_models(
    generator: str,
    scorer: str,
    device: str = "auto",
    preview_decoder: str | None = None,
    calibration: Path | None = None,
    report: Callable[[str], None] | None = None,
    mode: Mode = "auto",
    options: LoadOptions = DEFAULTS,
    *,
    called: str = "",
    shared: SharedScorers | None = None,
) -> Models:
    """Load generator and scorer by name: a pack, `fake`, a folder, or a hub id.

    A scorer may also be any name that open_clip knows. `device` is `auto`, `cpu` or `cuda[:n]`; synthetic models
    ignore it. `preview_decoder` is a folder or hub id of a tiny decoder for the generator's latents. `calibration` is
    a calibration file. Without one, or if it is of other weights, the pack's own calibration is used. `report` is
    called with a text when each part of loading begins. `mode` selects who makes the steps, see `families.Mode`.
    `options` also name further scorers, a referee, an upscaler, ControlNets and LoRA adapters; those of requests that
    name none are loaded at once. The second scorer of the main scorer's pack is a member too, and loads when it is
    first used. `called` is another id of the generator, and `shared` the scorers of other models of this process, which
    are used instead of loading them again.
    Sets the thread counts of the process. Raises ModelNotFound, ModelUnsupported and PackCorrupt.
    """
    given = calibration_io.read_calibration(calibration) if calibration is not None else None
    report = report or log.debug
    context = LoadContext(device, mode, preview_decoder, options, shared)
    names = (scorer, *options.scorers, *filter(None, [options.referee]))
    with ThreadPoolExecutor(1, "checksums") as pool:
        sources = _sources({generator, *names}, pool)
        made = replace(sources[generator], called=called)
        generators = families.family_of(families.GENERATORS, made)
        scorers = tuple(sources[name] for name in names)
        torch_free = not generators.needs_torch and not any(map(families.scorer_needs_torch, scorers))
        if torch_free and options.upscaler in {"", families.FAKE}:
            return _with_steering(replace(_load(context, (generators, made), scorers, report), calibration=given))
        report("importing libraries")
        _prepare_threads()
        own = _pack_calibration(made) if generator == scorer else None
        if options.loras is not None:
            _import_adapters()
        models = _load_with_torch(context, (generators, made), scorers, report)
    _try_adapters(models.generator)
    return _with_steering(replace(models, calibration=_chosen(given, own, models)))


def check_names(
    generator: str,
    scorer: str,
    preview_decoder: str | None = None,
    calibration: Path | None = None,
    options: LoadOptions = DEFAULTS,
) -> None:
    """Check what can be known of models before they load.

    Packs are verified, paths must exist, a calibration must be readable. No other weights are read and no hub is asked:
    loading may fail all the same. The arguments are those of `load_models`. Raises ModelNotFound, ModelUnsupported and
    PackCorrupt.
    """
    if calibration is not None:
        calibration_io.read_calibration(calibration)
    names = (scorer, *options.scorers, *filter(None, [options.referee]))
    with ThreadPoolExecutor(1, "checksums") as pool:
        sources = _sources({generator, *names}, pool)
        for source in sources.values():
            source.verified_pack()
    made = sources[generator]
    needs_torch = families.family_of(families.GENERATORS, made).needs_torch
    if needs_torch:
        families.check_generator(made)
    if needs_torch or any(families.scorer_needs_torch(sources[name]) for name in names):
        _check_installed("torch")
    others = (preview_decoder or "", options.upscaler, options.gguf, *options.controls.values())
    for each in (*sources.values(), *map(Source, filter(None, others))):
        if Path(each.place).is_absolute() and not Path(each.place).exists():
            raise ModelNotFound(f"model {each.label!r} not found: the path does not exist on this machine")


def _check_installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModelNotFound(f"{package} is not installed: install `frontrunner[models]`")


def _with_steering(models: Models) -> Models:
    return replace(models, steering=find_steering(models.generator, models.scorer))


def _load_with_torch(
    context: LoadContext, generator: _Chosen, scorers: Sequence[Source], report: Callable[[str], None]
) -> Models:
    from models.runtime.deferred_imports import deferred_imports
    from models.runtime.weights import weight_bytes

    options = context.options
    needed = {options.quantization.partition("-")[0]}
    deferred = not options.compile and "diffusers" not in sys.modules  # else another model may run meanwhile
    with _garbage_collection_paused(), deferred_imports(needed) if deferred else nullcontext():
        models = _load(context, generator, scorers, report)
    return replace(models, weight_bytes=weight_bytes(models))


def _load(context: LoadContext, generator: _Chosen, scorers: Sequence[Source], report: Callable[[str], None]) -> Models:
    """Load the parts in order: generator, main scorer, members, referee, upscaler."""
    report("loading the generator")
    made = generator[0].load(context, generator[1])
    ranked = list[Embedder | Scorer]()
    for source in scorers:
        report("loading the scorer" if not ranked else f"loading the scorer {source.label}")
        ranked.append(families.load_scorer(context, source))
    referee = ranked.pop() if context.options.referee else None
    ranked += families.offered(context, scorers[0], {*(each.info.id for each in ranked), *_id_of(referee)})
    if context.options.upscaler:
        report("loading the upscaler")
    upscaler = families.load_upscaler(context)
    return ensembles.checked(made, ranked[0], ranked[1:], referee, upscaler)


def _id_of(scorer: Embedder | Scorer | None) -> set[str]:
    return set() if scorer is None else {scorer.info.id}


def estimate_bytes(generator: str) -> int:
    """Bytes of the weight files of a generator's pack or folder; 0 for a hub id.

    A variant in another number format is counted too. A pack's second scorer is not.
    """
    pack = packs().get(generator)
    folder = pack.folder if pack is not None else Path(generator)
    files = folder.rglob("*") if folder.is_dir() else ()
    if pack is not None:
        files = (folder / name for name in pack.manifest["files"])
    return sum(file.stat().st_size for file in files if file.suffix in WEIGHT_SUFFIXES and file.is_file())


def release_memory() -> None:
    """Return the memory of models that are gone to the system, also that of a GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _import_adapters() -> None:
    """Import peft before `deferred_imports`, which has a stand-in for it."""
    with suppress(ImportError):
        import peft.tuners.tuners_utils  # noqa: F401


def _try_adapters(generator: StepwiseGenerator) -> None:
    """Load the adapters of requests that name none. Raises ModelUnsupported."""
    try:
        generator.adapt(generator.info.loras or ())
    except ValueError as error:
        raise ModelUnsupported(str(error)) from error
    finally:
        generator.adapt(())


def _sources(names: Iterable[str], pool: ThreadPoolExecutor) -> dict[str, Source]:
    """Resolve names, and start to verify each pack once, in the background.

    Raises PackCorrupt for an unreadable manifest.
    """
    known = packs()
    found = {name: known.get(name) or pack_in(Path(name)) for name in names}
    checks = {_key(pack): pool.submit(pack.verify) for pack in {_key(p): p for p in found.values() if p}.values()}
    return {name: Source(name, pack, checks[_key(pack)] if pack else None) for name, pack in found.items()}


def _key(pack: Pack) -> tuple[Path, str]:
    return pack.folder, pack.id


def _pack_calibration(source: Source) -> Calibration | None:
    """The calibration in a pack's manifest. Raises PackCorrupt.

    It was measured with the pack's own generator and scorer.
    """
    manifest = source.pack.manifest if source.pack is not None else {}
    found = manifest.get("calibration")
    try:
        beside = {"match": manifest["match"]} if "match" in manifest else {}
        return calibration_io.from_json({**found, **beside}) if found is not None else None
    except ValueError as error:
        raise PackCorrupt(f"pack {source.label!r}: {error}") from error


def _chosen(given: Calibration | None, own: Calibration | None, models: Models) -> Calibration | None:
    """The given calibration, unless it is of other weights and the pack has its own.

    One without a probability of a match gets that of the pack.
    """
    if given is None or own is None:
        return given or own
    if given.matches(models.generator.info, models.scorer.info):
        return given if given.match is not None else replace(given, match=own.match)
    log.warning("the given calibration was measured with other weights; the pack's own calibration is used")
    return own


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection during imports, where it takes 1/7 of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _prepare_threads() -> None:
    """Let idle threads spin for microseconds, then sleep; torch reads it at import."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
