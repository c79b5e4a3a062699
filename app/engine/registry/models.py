"""The models of a process by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.engine.protocols import EngineStats
from app.engine.registry.managed import ManagedEngine
from app.engine.registry.served_engine import ModelStateName, ServedEngine
from models.protocols.narrow import CallCounts


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model for lists and metrics. `loads` counts loads by outcome."""

    id: str
    state: ModelStateName
    resident: bool
    stats: EngineStats
    loads: Mapping[str, int]
    problem: str | None = None


class ModelRegistry:
    """Engines by model id, the default first. Event loop only.

    A registry of one has an engine without an id: its model's name is known once it is loaded.
    """

    def __init__(self, engines: Mapping[str, ManagedEngine], default: str) -> None:
        self._managed = dict(engines)
        self._engines: dict[str, ServedEngine] = {default: engines[default], **engines}
        self.default = default

    @classmethod
    def of_one(cls, engine: ServedEngine) -> ModelRegistry:
        """A registry with one engine that loads at the start and stays."""
        made = cls.__new__(cls)
        made._managed, made._engines, made.default = {}, {"": engine}, ""
        return made

    @property
    def several(self) -> bool:
        """Whether the models come from a file, so that requests choose one."""
        return bool(self._managed)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all models, the default first; empty for a registry of one."""
        return tuple(self._engines) if self.several else ()

    def engine(self, model: str) -> ServedEngine:
        """The engine of a model."""
        return self._engines[model]

    def managed(self, model: str) -> ManagedEngine | None:
        """The engine that comes and goes; None for a registry of one."""
        return self._managed.get(model)

    def start(self) -> None:
        """Start to load what is resident, one model after the other."""
        for engine in self._engines.values():
            engine.start()

    def cancel(self, generation_id: str) -> None:
        """Cancel a generation wherever it runs."""
        for engine in self._engines.values():
            engine.cancel(generation_id)

    def drain(self) -> None:
        """Reject new work from now on."""
        for engine in self._engines.values():
            engine.drain()

    async def wait_drained(self, drain_s: float) -> bool:
        """Reject new work and wait up to `drain_s`; return whether all work has ended."""
        return all(await asyncio.gather(*(engine.wait_drained(drain_s) for engine in self._engines.values())))

    async def close(self, drain_s: float) -> None:
        """Close all engines."""
        await asyncio.gather(*(engine.close(drain_s) for engine in self._engines.values()))

    def states(self) -> list[ModelState]:
        """All models of the file, the default first; none for a registry of one."""
        return [
            ModelState(
                name,
                engine.state,
                engine.resident,
                engine.stats(),
                dict(engine.loads),
                engine.failure.detail if engine.failure is not None else None,
            )
            for name, engine in ((name, self._managed[name]) for name in self.ids)
        ]

    def stats(self) -> EngineStats:
        """The counters of all models together.

        Ready when no resident model loads and one model can be used. Paces are the default model's.
        """
        usual = self._engines[self.default].stats()
        if not self.several:
            return usual
        states = self.states()
        every = [state.stats for state in states]
        loading = [f"{each.id}: {each.stats.part}" for each in states if each.resident and each.state == "loading"]
        seconds: Counter[str] = Counter()
        for one in every:
            seconds.update(one.stage_seconds)
        return replace(
            usual,
            ready=not loading and any(each.state in {"loaded", "waiting"} for each in states),
            dead=any(one.dead for one in every),
            draining=all(one.draining for one in every),
            part=", ".join(loading) or usual.part,
            held=sum(one.held for one in every),
            queued=sum(one.queued for one in every),
            running=sum(one.running for one in every),
            capacity=sum(one.capacity for one in every),
            rows_stepped=sum(one.rows_stepped for one in every),
            denoiser_calls=sum(one.denoiser_calls for one in every),
            stage_seconds=dict(seconds),
            remote_calls=sum((one.remote_calls for one in every), CallCounts()),
            weight_bytes=sum(one.weight_bytes for one in every),
            workers=sum(one.workers for one in every),
            workers_ready=sum(one.workers_ready for one in every),
        )
