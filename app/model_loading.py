"""From settings to loaded models: one, or several that share devices and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from app.engine.cluster.devices import worker_names
from app.engine.cluster.engine import ClusterEngine
from app.engine.cluster.workers import InProcessWorker
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import Lifetime, ManagedEngine, ModelMemory, ServedEngine, Turns
from app.engine.warmup import Progress
from app.settings import ModelSettings, ServedModel
from models import registry
from models.errors import ModelUnsupported
from models.families import SharedScorers
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


def make_engine(
    settings: Chosen,
    load: Callable[[Chosen, Progress], Models],
    config: EngineConfig,
    on_death: Callable[[BaseException], None],
    *,
    attempts: int,
    turns: Callable[[str], Turns | None] = lambda _: None,
) -> ServedEngine:
    """The engine of one model, on one device or over a worker for each of several.

    `load` runs on the engine's threads. `attempts` limits those after the loss of a worker. `turns` returns what the
    models on a device share.
    """
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
            lambda: len(model.settings.workers) * registry.estimate_bytes(model.settings.generator),
            registry.release_memory,
        )
        return ManagedEngine(model.id, partial(self._load, model), self._memory, lifetime, self._on_death)

    def _load(self, model: ServedModel, on_death: Callable[[BaseException], None]) -> ServedEngine:
        def load(settings: ModelSettings, progress: Progress) -> Models:
            return load_served(settings, progress, model.id, self._shared)

        return make_engine(model.settings, load, self._config, on_death, attempts=self._attempts, turns=self._turns_on)

    def _turns_on(self, device: str) -> Turns:
        return self._turns.setdefault(device, Turns())
