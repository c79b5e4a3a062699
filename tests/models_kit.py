"""Several models on the fakes, whose loads can be watched, held back and made to fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.registry import Lifetime, ManagedEngine, ModelMemory, ModelRegistry, Turns
from models.errors import ModelError
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering
from tests.synthetic_models import InstrumentedGenerator


@dataclass
class FakeModel:
    """A model to be served. `problems` are raised by its next loads; it loads while `gate` is open."""

    name: str
    resident: bool = True
    size: int = 0
    revision: str = "1"
    delay_s: float = 0.0
    problems: list[Exception] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    generators: list[InstrumentedGenerator] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Denoiser calls of all its loads."""
        return sum(len(each.calls) for each in self.generators)


class Shelf:
    """Engines of fake models that share memory, turns and a scorer."""

    def __init__(self, *models: FakeModel, budget: int = 0, capacity: int = 512) -> None:
        self.models = {model.name: model for model in models}
        self.memory = ModelMemory(budget)
        self.loading = self.most_loading = 0
        self.loads: list[str] = []
        self.deaths: list[BaseException] = []
        self._config = EngineConfig(capacity=capacity, warmup_s=0.0)
        self._turns = Turns()
        self._guard = threading.Lock()
        self._scorer = FakeScorer()
        self.engines = {model.name: self._engine(model) for model in models}
        for model in models:
            model.gate.set()
        self.registry = ModelRegistry(self.engines, next(iter(self.models)))

    def _engine(self, model: FakeModel) -> ManagedEngine:
        def make(on_death: Callable[[BaseException], None]) -> LocalEngine:
            return LocalEngine(lambda: self._load(model), self._config, on_death, turns=self._turns)

        lifetime = Lifetime(model.resident, self._config.capacity)
        return ManagedEngine(model.name, make, self.memory, lifetime, self.deaths.append)

    def _load(self, model: FakeModel) -> Models:
        with self._guard:
            self.loading += 1
            self.most_loading = max(self.most_loading, self.loading)
        try:
            time.sleep(0.01)
            assert model.gate.wait(60)
            if model.problems:
                raise model.problems.pop(0)
            self.loads.append(model.name)
            generator = InstrumentedGenerator(id=model.name, revision=model.revision, delay_s=model.delay_s)
            model.generators.append(generator)
            return Models(generator, self._scorer, steering=FakeSteering(), weight_bytes=model.size)
        finally:
            with self._guard:
                self.loading -= 1


def broken() -> ModelError:
    """What a loader raises."""
    return ModelError("generator 'gone' not found; use a folder")
