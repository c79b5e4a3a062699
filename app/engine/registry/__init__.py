"""Several models of one process: an engine each, resident or loaded on demand."""

from app.engine.registry.cards import ElsewhereEngine as ElsewhereEngine
from app.engine.registry.cards import ModelCard as ModelCard
from app.engine.registry.managed import ManagedEngine as ManagedEngine
from app.engine.registry.memory import ModelMemory as ModelMemory
from app.engine.registry.models import ModelRegistry as ModelRegistry
from app.engine.registry.models import ModelState as ModelState
from app.engine.registry.served_engine import Lifetime as Lifetime
from app.engine.registry.served_engine import ModelStateName as ModelStateName
from app.engine.registry.served_engine import ServedEngine as ServedEngine
from app.engine.registry.turns import FoundTurns as FoundTurns
from app.engine.registry.turns import Turns as Turns
