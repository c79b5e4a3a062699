"""From settings to loaded models: one, or several that share devices and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from app.engine.cluster.devices import worker_names
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.replicas.link import Link
from app.engine.cluster.workers import InProcessWorker
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import FoundTurns, Lifetime, ManagedEngine, ModelMemory, ServedEngine, Turns
from app.engine.warmup import Progress
from app.settings import ModelSettings, ServedModel
from models import registry
from models.errors import ModelUnsupported
from models.families import SharedScorers
from models.families.sources import REMOTE, device_name
from models.protocols import Models

Chosen = TypeVar("Chosen", bound=ModelSettings)

WARMUP_S = 5.0
"""Seconds for timing calls of one of several models.

The others on its device wait meanwhile."""


def load_served(
    settings: ModelSettings, progress: Progress, called: str = "", shared: SharedScorers | None = None
) -> Models:
    """Load the models that the settings name; runs on an engine's thread.

    Raises ModelError. `called` and `shared` are as in `load_models`.
    """
    load: Callable[..., Models] = registry.load_models
    if shared is not None:
        load = partial(load, called=called, shared=shared)
    return load(
        settings.generator,
        settings.scorer,
        settings.device,
        settings.preview_decoder or None,
        settings.calibration,
        progress,
        settings.generator_mode,
        settings.load_options,
    )


def check_served(settings: ModelSettings) -> None:
    """Check what can be known before the models load. Raises ModelError."""
    decoder, options = settings.preview_decoder or None, settings.load_options
    registry.check_names(settings.generator, settings.scorer, decoder, settings.calibration, options)


def make_engine(
    settings: Chosen,
    load: Callable[[Chosen, Progress], Models],
    config: EngineConfig,
    on_death: Callable[[BaseException], None],
    *,
    attempts: int,
    turns: Callable[[str], FoundTurns | None] = lambda _: None,
    called: str = "",
) -> ServedEngine:
    """The engine of one model.

    It runs on one device, over a worker for each of several, or over those of a cluster. `load` runs on the engine's
    threads. `attempts` limits those after the loss of a worker. `turns` returns what the models on a device share.
    `called` is the model's id, if it is not the generator.
    """
    if runs_on_cluster(settings):
        link = Link(settings.cluster, application_name(called or settings.generator))
        return ClusterEngine([], config, on_death, max_attempts=attempts, link=link)
    devices = settings.workers
    if len(devices) == 1:
        progress = Progress()
        return LocalEngine(
            partial(load, settings.on(devices[0]), progress), config, on_death, progress, turns(devices[0])
        )
    workers = []
    for name, device in zip(worker_names(devices), devices, strict=True):
        progress = Progress()
        loading = partial(_load_worker, name, partial(load, settings.on(device), progress))
        workers.append(InProcessWorker(name, loading, config, progress, turns(device)))
    return ClusterEngine(workers, config, on_death, max_attempts=attempts)


def runs_on_cluster(settings: ModelSettings) -> bool:
    """Whether workers of a cluster run the model; a remote generator needs none."""
    return bool(settings.cluster) and not settings.generator.startswith(REMOTE)


def application_name(model: str) -> str:
    """The name of a model's application in a cluster."""
    return f"frontrunner-{re.sub(r'[^A-Za-z0-9_.@]+', '-', model)}"


def _load_worker(name: str, load: Callable[[], Models]) -> Models:
    """Load the models of a worker. Raises ModelUnsupported that names the setting."""
    try:
        return load()
    except ModelUnsupported as error:
        raise ModelUnsupported(f"FRONTRUNNER_DEVICES, {name}: {error}") from error


class ModelShelf:
    """Makes the engines of several models. `on_death` is called if a loaded one dies."""

    def __init__(
        self, config: EngineConfig, budget_bytes: int, on_death: Callable[[BaseException], None], attempts: int
    ) -> None:
        self._config = config
        self._attempts = attempts
        self._memory = ModelMemory(budget_bytes)
        self._shared = SharedScorers()
        self._turns: dict[str, Turns] = {}
        self._on_death = on_death

    def engine(self, model: ServedModel) -> ManagedEngine:
        """The engine of a model; nothing loads yet."""
        lifetime = Lifetime(
            model.load == "resident",
            self._config.capacity,
            partial(_estimate_bytes, model.settings),
            registry.release_memory,
            runs_on_cluster(model.settings),
        )
        return ManagedEngine(model.id, partial(self._load, model), self._memory, lifetime, self._on_death)

    def _load(self, model: ServedModel, on_death: Callable[[BaseException], None]) -> ServedEngine:
        def load(settings: ModelSettings, progress: Progress) -> Models:
            return load_served(settings, progress, model.id, self._shared)

        return make_engine(
            model.settings,
            load,
            self._config,
            on_death,
            attempts=self._attempts,
            turns=self._turns_on,
            called=model.id,
        )

    def _turns_on(self, device: str) -> FoundTurns:
        """Turns of all models on a device, whatever name of it their tables have."""
        return FoundTurns(lambda: self._turns.setdefault(device_name(device), Turns()))


def _estimate_bytes(settings: ModelSettings) -> int:
    """Bytes that the weights will need in this process."""
    if runs_on_cluster(settings):
        return 0
    return len(settings.workers) * registry.estimate_bytes(settings.generator)
