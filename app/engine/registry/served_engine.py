"""Types of a model that comes and goes; see `managed` and `memory`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

from app.engine.protocols import Engine, EngineStats
from models.protocols.narrow import CallCounts


class ServedEngine(Engine, Protocol):
    """An engine that the process starts and stops."""

    def start(self) -> None:
        """Start loading; returns at once."""
        ...

    def drain(self) -> None:
        """Reject new work from now on."""
        ...

    async def wait_drained(self, drain_s: float) -> bool:
        """Reject new work and wait; return whether all work has ended."""
        ...


ModelStateName: TypeAlias = Literal["loaded", "loading", "failed", "waiting"]
"""`waiting`: on demand, and not loaded."""

EngineFactory: TypeAlias = Callable[[Callable[[BaseException], None]], ServedEngine]
"""Makes an engine from what it calls when it dies."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How a model comes and goes.

    `elsewhere` is whether other processes load its weights; then it waits for no model that loads here.
    `estimate` returns the bytes that its weights will need, or 0 if unknown. `release` frees memory of the libraries
    after the model has left; it runs on another thread.
    """

    resident: bool = True
    capacity: int = 512
    estimate: Callable[[], int] = lambda: 0
    release: Callable[[], None] = lambda: None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """Device work of loads that have ended, so that counters never fall."""

    rows_stepped: int = 0
    denoiser_calls: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    remote_calls: CallCounts = field(default_factory=CallCounts)

    def added(self, stats: EngineStats) -> EngineStats:
        """The counters of a load with this work before it."""
        seconds = Counter(stats.stage_seconds)
        seconds.update(self.stage_seconds)
        return replace(
            stats,
            rows_stepped=stats.rows_stepped + self.rows_stepped,
            denoiser_calls=stats.denoiser_calls + self.denoiser_calls,
            stage_seconds=dict(seconds),
            remote_calls=stats.remote_calls + self.remote_calls,
        )

    def after(self, stats: EngineStats) -> Work:
        """The work with that of a load that ends."""
        sums = self.added(stats)
        return Work(sums.rows_stepped, sums.denoiser_calls, sums.stage_seconds, sums.remote_calls)
