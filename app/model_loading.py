"""From settings to loaded models: one, or several that share devices and memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import Lifetime, ManagedEngine, ModelMemory, Turns
from app.engine.warmup import Progress
from app.settings import ModelSettings, ServedModel
from models import registry
from models.families import SharedScorers
from models.protocols import Models

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


class ModelShelf:
    """Makes the engines of several models. `on_death` is called if a loaded one dies."""

    def __init__(self, config: EngineConfig, budget_bytes: int, on_death: Callable[[BaseException], None]) -> None:
        self._config = config
        self._memory = ModelMemory(budget_bytes)
        self._shared = SharedScorers()
        self._turns: dict[str, Turns] = {}
        self._on_death = on_death

    def engine(self, model: ServedModel) -> ManagedEngine:
        """The engine of a model; nothing loads yet."""
        lifetime = Lifetime(
            model.load == "resident",
            self._config.capacity,
            partial(registry.estimate_bytes, model.settings.generator),
            registry.release_memory,
        )
        return ManagedEngine(model.id, partial(self._load, model), self._memory, lifetime, self._on_death)

    def _load(self, model: ServedModel, on_death: Callable[[BaseException], None]) -> LocalEngine:
        progress = Progress()
        turns = self._turns.setdefault(model.settings.device, Turns())
        load = partial(load_served, model.settings, progress, model.id, self._shared)
        return LocalEngine(load, self._config, on_death, progress, turns)
