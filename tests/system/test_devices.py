"""The embedded pack on several workers of this machine."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.domain import Checkpoint, GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Outcome, Succeeded
from app.engine.registry import ServedEngine
from app.model_loading import load_served, make_engine
from app.settings import Settings
from models import registry
from models.errors import ModelUnsupported
from models.protocols import GeneratorInfo
from tests.unit.cluster_kit import race

pytestmark = [pytest.mark.anyio, pytest.mark.torch, pytest.mark.slow]

CONFIG = EngineConfig(warmup_s=0.0)
LATENTS = 1e-2
"""Largest difference of float16 latents between batch sizes."""


def engine(devices: str, deaths: list[BaseException]) -> ServedEngine:
    return make_engine(Settings(devices=devices), load_served, CONFIG, deaths.append, attempts=2)


def spec(info: GeneratorInfo, name: str, deterministic: bool) -> GenerationSpec:
    return GenerationSpec(
        id=name,
        prompt="a red apple",
        negative_prompt="",
        n_candidates=6,
        n=1,
        width=info.width,
        height=info.height,
        steps=4,
        guidance_scale=info.guidance_scale,
        sampler=info.sampler,
        seed=7,
        checkpoints=(Checkpoint(2, 3),),
        deterministic=deterministic,
    )


def alone(core: EngineCore, one: GenerationSpec) -> Outcome:
    core.submit(one, 0.0)
    while True:
        for _, update in core.tick():
            if isinstance(update, Succeeded):
                return update.outcome


@pytest.mark.soak
async def test_deterministic_candidates_are_equal_to_the_last_bit_and_others_within_the_tolerance() -> None:
    deaths: list[BaseException] = []
    core = EngineCore(registry.load_models("pictogram", "pictogram", "cpu"), CONFIG)
    cluster = engine("cpu*2", deaths)
    cluster.start()
    while not cluster.stats().ready:
        assert not deaths
        await asyncio.sleep(0.05)
    try:
        for deterministic in (True, False):
            one = spec(cluster.generator, f"gen_{deterministic}", deterministic)
            wanted = alone(core, one)
            made, _ = await race(cluster, one)  # type: ignore[arg-type]
            assert [c.rank for c in made.candidates] == [c.rank for c in wanted.candidates]
            assert [c.pruned_at_step for c in made.candidates] == [c.pruned_at_step for c in wanted.candidates]
            if deterministic:
                assert made.candidates == wanted.candidates
                np.testing.assert_array_equal(made.latents, wanted.latents)
                np.testing.assert_array_equal(made.embeddings, wanted.embeddings)
            else:
                np.testing.assert_allclose(made.latents, wanted.latents, atol=LATENTS)
    finally:
        await cluster.close(0)


async def test_a_device_that_is_not_there_is_named_with_the_accepted_ones() -> None:
    deaths: list[BaseException] = []
    cluster = engine("cuda:97,cpu", deaths)
    cluster.start()
    while not deaths:
        await asyncio.sleep(0.02)
    await cluster.close(0)
    assert isinstance(deaths[0], ModelUnsupported)
    assert "FRONTRUNNER_DEVICES, cuda:97: device 'cuda:97' is not available; use auto, cpu" in str(deaths[0])
