"""Specs and a loop for tests of the engine on the fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Cancelled, Failed, Outcome, Succeeded, Update
from models.protocols import Embeddings, Models, Pixels
from tests.synthetic_models import InstrumentedGenerator, InstrumentedScorer, InstrumentedSteering


def spec(name: str = "gen_a", **changes: Any) -> GenerationSpec:
    fields: dict[str, Any] = {
        "id": name,
        "prompt": "a red apple",
        "negative_prompt": "",
        "n_candidates": 4,
        "n": 1,
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance_scale": 3.0,
        "sampler": "ddim",
        "seed": 7,
    }
    made = GenerationSpec(**{**fields, **changes})
    return replace(made, ranking=made.ranking.with_negative_prompt(made.negative_prompt))


class Bench:
    """A core on fakes, with every update by generation. By default its clock stands still: no cost is learnt."""

    def __init__(
        self,
        config: EngineConfig | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        steering: InstrumentedSteering | None = None,
        **fake: Any,
    ) -> None:
        self.generator = InstrumentedGenerator(**fake)
        self.scorer = InstrumentedScorer()
        self.steering = steering or InstrumentedSteering()
        models = Models(self.generator, self.scorer, steering=self.steering)
        self.core = EngineCore(models, config or EngineConfig(), clock=clock)
        self.updates: dict[str, list[Update]] = {}
        self.ticks = 0

    def submit(self, *specs: GenerationSpec) -> None:
        for one in specs:
            self.core.submit(one, 0.0)

    def tick(self) -> None:
        self.ticks += 1
        for name, update in self.core.tick():
            self.updates.setdefault(name, []).append(update)

    def run(self, limit: int = 10_000) -> None:
        while not self.core.idle:
            self.tick()
            assert self.ticks < limit, "the engine does not come to an end"

    def outcome(self, name: str = "gen_a") -> Outcome:
        last = self.updates[name][-1]
        assert isinstance(last, Succeeded), last
        return last.outcome

    def ends(self, name: str) -> list[Update]:
        return [u for u in self.updates.get(name, []) if isinstance(u, Succeeded | Failed | Cancelled)]


def alone(one: GenerationSpec) -> Outcome:
    bench = Bench()
    bench.submit(one)
    bench.run()
    return bench.outcome(one.id)


class BlindScorer(InstrumentedScorer):
    """Cannot tell a number for some of the images it is shown."""

    def __init__(self, blind: int) -> None:
        super().__init__()
        self._blind = blind

    def embed_images(self, pixels: Pixels) -> Embeddings:
        vectors = super().embed_images(pixels)
        vectors[: self._blind] = np.nan
        return vectors


class Inbox:
    """A sink that can be waited for."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self._done = asyncio.Event()

    def __call__(self, updates: Sequence[Update]) -> None:
        self.updates.extend(updates)
        if isinstance(self.updates[-1], Succeeded | Failed | Cancelled):
            self._done.set()

    async def last(self) -> Update:
        await asyncio.wait_for(self._done.wait(), 50)
        return self.updates[-1]

    async def outcome(self) -> Outcome:
        last = await self.last()
        assert isinstance(last, Succeeded), last
        return last.outcome

    async def error(self) -> Exception:
        last = await self.last()
        assert isinstance(last, Failed), last
        return last.error

    def of(self, kind: type[Update]) -> list[Any]:
        return [u for u in self.updates if isinstance(u, kind)]
