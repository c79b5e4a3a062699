"""Consistency models, whose denoiser takes the guidance scale as an input, with a native loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.protocols import StepRow, to_host
from tests.contract.conftest import Workshop
from tests.contract.families import FAMILIES
from tests.contract.loop import finish, levels, start, values
from tests.contract.test_parity import LATENTS, LEVELS, PROMPT, SEEDS, apart, unit_noise

pytestmark = pytest.mark.torch

STEPS = 3


@pytest.fixture(scope="module")
def pipe() -> Any:
    return FAMILIES["latent_consistency"].build("latent_consistency")


@pytest.fixture(scope="module")
def generator(pipe: Any) -> Any:
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    return NativeGenerator(pipe, select_device("cpu"), id="lcm")


def test_the_model_says_what_guidance_means(generator: Any) -> None:
    info = generator.info
    assert (info.guidance, info.negative_prompts) == ("embedded", False)
    assert (info.sampler, info.steps, info.guidance_scale) == ("lcm", 4, 8.5)


@pytest.mark.parametrize("guidance", [1.0, 8.5])
def test_equals_the_stock_pipeline(pipe: Any, generator: Any, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.generators import native as adapter

    size = generator.info.width, generator.info.height
    begun = [start(generator, seed, prompt=PROMPT, guidance=guidance, steps=STEPS) for seed in SEEDS]
    rows = [each.row for each in begun]
    drawn: list[Any] = []

    def same_noise(shape: Any, **_: Any) -> Any:
        at = [StepRow(r.latent, r.prompt, None, guidance, r.schedule, len(drawn), r.seed) for r in rows]
        drawn.append(adapter._ancestral_noise(at, np.ones(len(at))))
        return drawn[-1]

    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", same_noise)
    wanted = pipe(
        [PROMPT] * len(SEEDS),
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        width=size[0],
        height=size[1],
        latents=unit_noise(pipe, *size),
        output_type="latent",
    ).images.numpy()
    found = finish(generator, begun)
    assert len(drawn) == STEPS - 1
    spread = max(1.0, float(np.abs(wanted).max()))
    assert apart(np.stack([values(each) for each in found]), wanted) <= LATENTS * spread
    assert len(to_host(generator.decode(found))) == len(SEEDS)


def test_scales_share_a_call_and_matter(generator: Any) -> None:
    scales = (1.0, 4.0, 8.5)
    together = finish(generator, [start(generator, 3, guidance=scale, steps=STEPS) for scale in scales])
    alone = [finish(generator, [start(generator, 3, guidance=scale, steps=STEPS)])[0] for scale in scales]
    pixels = to_host(generator.decode(together))
    assert levels(pixels, to_host(generator.decode(alone))) <= LEVELS
    assert not np.allclose(values(together[0]), values(together[2]), rtol=1e-3)


def test_a_consistency_sampler_refuses_more_steps_than_it_was_trained_for(workshop: Workshop) -> None:
    generator = workshop.generator("sd-epsilon")
    with pytest.raises(ValueError, match="with the sampler lcm"):
        generator.schedule("lcm", 60, generator.info.width, generator.info.height)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_a_scheduler_without_a_usual_name_equals_the_stock_pipeline(workshop: Workshop) -> None:
    import copy

    from diffusers import KDPM2DiscreteScheduler

    from models.generators.native import NativeGenerator

    pipe = copy.copy(workshop.pipe("sd-epsilon"))
    vars(pipe)["scheduler"] = KDPM2DiscreteScheduler.from_config(pipe.scheduler.config)
    generator = NativeGenerator(pipe, workshop._shared(), id="kdpm2")
    size = generator.info.width, generator.info.height
    assert generator.info.sampler in generator.info.second_order
    found = finish(generator, [start(generator, seed, prompt=PROMPT, guidance=1.0, steps=4) for seed in SEEDS])
    wanted = pipe(
        [PROMPT] * len(SEEDS),
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=unit_noise(pipe, *size),
        output_type="latent",
    ).images.numpy()
    spread = max(1.0, float(np.abs(wanted).max()))
    assert apart(np.stack([values(each) for each in found]), wanted) <= LATENTS * spread


def test_candidates_of_every_sampler_share_calls(workshop: Workshop) -> None:
    generator = workshop.generator("sd-epsilon")
    made = [start(generator, 3, sampler=sampler, steps=4) for sampler in generator.info.samplers]
    calls: list[int] = []
    step = generator.step

    def counted(rows: Any, size: int) -> Any:
        calls.append(len(rows))
        return step(rows, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "step", counted)
        together = finish(generator, made)
    assert len(calls) == 7
    for sampler, latent in zip(generator.info.samplers, together, strict=True):
        (alone,) = finish(generator, [start(generator, 3, sampler=sampler, steps=4)])
        assert apart(values(latent), values(alone)) <= LATENTS * max(1.0, float(np.abs(values(alone)).max()))
