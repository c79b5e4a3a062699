"""From names to running models: packs, fakes, hub ids and folders.

Owns the meaning of a name and the sharing of a pack's text encoder. torch is imported when a real model is asked
for, never with this module; nothing is fetched unless a hub id is named.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from models import calibration_io
from models.errors import ModelNotFound, ModelUnsupported, PackCorrupt
from models.pack import MANIFEST, Pack, packs
from models.protocols import Calibration, Embedder, Models, StepwiseGenerator
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer

log = logging.getLogger(__name__)

FAKE = "fake"

Mode: TypeAlias = Literal["auto", "native", "gate"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_models(
    generator: str,
    scorer: str,
    device: str = "auto",
    preview_decoder: str | None = None,
    calibration: Path | None = None,
    report: Callable[[str], None] | None = None,
    mode: Mode = "auto",
) -> Models:
    """Load both by name: a pack, `fake`, a folder, or a hub id (for the scorer any name that open_clip knows).

    `device` is `auto`, `cpu` or `cuda[:n]`; fakes ignore it. `preview_decoder` is a folder or hub id of a tiny
    decoder of the generator's latents. `calibration` is the file of one; without it, and instead of one of other
    weights, a pack's own is taken. `report` is called with each part as it begins. `mode` is how steps are made: by a
    `native` loop of the family, by the stock pipeline behind the `gate`, or `auto`: native where there is one. Sets the
    thread counts of the process. Raises ModelNotFound, ModelUnsupported and PackCorrupt.
    """
    given = calibration_io.read_calibration(calibration) if calibration is not None else None
    if generator == scorer == FAKE:
        return Models(FakeGenerator(), FakeScorer(), given)
    report = report or log.debug
    report("importing libraries")
    _prepare_threads()
    with ThreadPoolExecutor(1, "checksums") as pool:
        checks = _Checks(pool, {generator, scorer})
        return _load(generator, scorer, device, preview_decoder, given, checks, report, mode)


def _load(
    generator: str,
    scorer: str,
    device: str,
    preview_decoder: str | None,
    given: Calibration | None,
    checks: _Checks,
    report: Callable[[str], None],
    mode: Mode,
) -> Models:
    from models.runtime.deferred_imports import deferred_imports

    with _garbage_collection_paused(), deferred_imports():
        loader = _Loader(device, checks, mode)
        own = loader.calibration(generator, scorer)
        report("loading the generator")
        made = loader.generator(generator, preview_decoder)
        report("loading the scorer")
        models = Models(made, loader.scorer(scorer), given or own)
    if given is None or own is None or given.matches(models.generator.info, models.scorer.info):
        return models
    log.warning("the given calibration was measured with other weights; that of the pack is used")
    return replace(models, calibration=own)


def label(name: str) -> str:
    """What a model is called in answers and errors: its name, but of a place on this machine the last part only."""
    bare = name.removeprefix("local-dir:")
    if bare != name or Path(bare).is_absolute() or Path(bare).is_dir():
        return Path(bare).name
    architecture, _, weights = name.partition("/")
    return f"{architecture}/{Path(weights).name}" if weights.startswith("/") else name


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Hold the garbage collector off: walking what the libraries make while they are imported takes a seventh of it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _prepare_threads() -> None:
    """Read when torch is imported: threads wait awake for some microseconds, then sleep."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class _Checks:
    """The packs by name or folder, their files compared with their checksums beside the imports."""

    def __init__(self, pool: ThreadPoolExecutor, names: Iterable[str]) -> None:
        self.packs = packs()
        asked = {pack.folder: pack for pack in map(self.find, names) if pack is not None}
        self._checked = {folder: pool.submit(pack.verify) for folder, pack in asked.items()}

    def find(self, name: str) -> Pack | None:
        """The pack of that id or in that folder, unchecked; None for anything else. Raises PackCorrupt."""
        pack = self.packs.get(name)
        return Pack.read(Path(name)) if pack is None and (Path(name) / MANIFEST).is_file() else pack

    def checked(self, name: str) -> Pack | None:
        """The same, its files checked. Raises PackCorrupt and ModelNotFound."""
        pack = self.find(name)
        if pack is not None:
            self._checked[pack.folder].result()
        return pack


class _Loader:
    """Loads real models onto one device; what two of them share is loaded once."""

    def __init__(self, device: str, checks: _Checks, mode: Mode) -> None:
        from models.runtime import placement

        placement.prepare_process()
        self._loading = placement
        self._placement = placement.select_device(device)
        self._checks = checks
        self._mode = mode
        self._text_encoders: dict[Path, Any] = {}

    def generator(self, name: str, preview_decoder: str | None) -> StepwiseGenerator:
        """A generator by name, with a decoder for its previews or without."""
        if name == FAKE:
            return FakeGenerator()
        from models.generators import pipelines

        decoder = None
        if preview_decoder is not None:
            with self._translated_errors("preview decoder", preview_decoder):
                decoder = pipelines.load_preview_decoder(preview_decoder, self._placement)
        pack = self._checks.checked(name)
        known: dict[str, Any] = {"id": label(name), "preview_decoder": decoder}
        if pack is not None:
            known |= {"id": pack.id, "revision": pack.revision, "defaults": pack.manifest["generator"]["defaults"]}
        folder = pack.generator if pack else Path(name) if Path(name).is_dir() else None
        hub_id = "" if folder else _hub_id(name)
        with self._translated_errors("generator", name):
            source = folder or pipelines.fetch(hub_id)
            kind = pipelines.kind_of(source)
            native = kind in pipelines.NATIVE
            if self._mode == "native" and not native:
                raise ModelUnsupported(f"a {kind} has no native loop; set FRONTRUNNER_GENERATOR_MODE to auto or gate")
            pipe = pipelines.load(source, self._placement, self._text_encoder(pack) if pack else None)
            return self._stepped(pipe, native, known)

    def _stepped(self, pipe: Any, native: bool, known: dict[str, Any]) -> StepwiseGenerator:
        """A pipeline as a generator, by the loop that the mode asks for."""
        if native and self._mode != "gate":
            from models.generators.stable_diffusion import StableDiffusionGenerator

            try:
                return StableDiffusionGenerator(pipe, self._placement, **known)
            except ModelUnsupported as error:
                if self._mode == "native":
                    raise
                log.warning("the generator's own pipeline makes its steps: %s", error)
        from models.generators.gate.generator import PipelineGate

        return PipelineGate(pipe, self._placement, **known)

    def calibration(self, generator: str, scorer: str) -> Calibration | None:
        """The one a pack brings for its own generator and scorer."""
        pack = self._checks.find(generator)
        found = pack.manifest.get("calibration") if pack is not None and generator == scorer else None
        try:
            return calibration_io.from_json(found) if found is not None else None
        except ValueError as error:
            raise PackCorrupt(f"pack {generator!r}: {error}") from error

    def scorer(self, name: str) -> Embedder:
        """A scorer by name."""
        if name == FAKE:
            return FakeScorer()
        from models.scorers import open_clip as adapter

        pack = self._checks.checked(name)
        if pack is not None:
            return adapter.load_pack(pack, self._text_encoder(pack), self._placement)
        return adapter.load_open_clip(
            f"local-dir:{name}" if Path(name).is_dir() else name, label(name), self._placement
        )

    def _text_encoder(self, pack: Pack) -> Any:
        if pack.folder not in self._text_encoders:
            self._text_encoders[pack.folder] = self._loading.load_text_encoder(pack, self._placement)
        return self._text_encoders[pack.folder]

    @contextmanager
    def _translated_errors(self, kind: str, name: str) -> Iterator[None]:
        """Turn what the libraries raise for files into an error that names the model and no place."""
        try:
            yield
        except (ModelNotFound, ModelUnsupported) as error:
            raise type(error)(f"{kind} {label(name)!r}: {error}") from error
        except self._loading.FILE_ERRORS as error:
            reason = "a file is missing or cannot be read" if Path(name).is_dir() else "the hub does not give it"
            raise ModelNotFound(f"{kind} {label(name)!r}: {reason}") from error


def _hub_id(name: str) -> str:
    if not _HUB_ID.fullmatch(name):
        known = ", ".join((FAKE, *packs()))
        raise ModelNotFound(f"generator {label(name)!r} is not a folder, not a hub id and none of {known}")
    return name
