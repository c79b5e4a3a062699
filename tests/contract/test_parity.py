"""The loop over the contract makes what the stock diffusers pipeline makes from the same noise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.generators.solver_coefficients import quadratic_times
from models.protocols import QUADRATIC, StepRow, to_host
from tests.contract.conftest import REAL, Workshop
from tests.contract.loop import Candidate, finish, levels, start, values

pytestmark = pytest.mark.torch

SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "ddim_quadratic": "DPMSolverMultistepScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
NOISY = {
    "euler_ancestral": ("scheduling_euler_ancestral_discrete", 0),
    "dpmpp_2m_sde": ("scheduling_dpmsolver_multistep", 0),
    "lcm": ("scheduling_lcm", 1),
    "tcd": ("scheduling_tcd", 1),
}
"""Samplers that draw noise: the module of their scheduler, and how many last steps draw none."""
PROMPT, NEGATIVE = "a red apple", "blue"
SEEDS = (3, 2**32 - 1)
LATENTS = 1e-4
LEVELS = 2


def scheduler_of(pipe: Any, sampler: str) -> Any:
    """The sampler as a user of the stock pipeline would put it in."""
    import diffusers

    changes: dict[str, dict[str, Any]] = {
        QUADRATIC: {"solver_order": 1},
        "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    }
    return getattr(diffusers, SCHEDULERS[sampler]).from_config(pipe.scheduler.config, **changes.get(sampler, {}))


def unit_noise(pipe: Any, width: int, height: int) -> Any:
    """What the stock pipeline would draw for these seeds."""
    import torch

    shape = (1, pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    return torch.cat(drawn)


def stock(pipe: Any, scheduler: Any, noise: Any, guidance: float, steps: int, size: tuple[int, int]) -> tuple[Any, Any]:
    """Latents and pixels of the stock pipeline, whose own scheduler is put back afterwards."""
    import torch

    own, pipe.scheduler = pipe.scheduler, scheduler
    quadratic = getattr(scheduler.config, "solver_order", 0) == 1
    spacing = {"timesteps": quadratic_times(steps)} if quadratic else {"num_inference_steps": steps}
    negative = [NEGATIVE] * len(SEEDS) if guidance > 1 else None
    eta = {"eta": 0.3} if type(scheduler).__name__ == "TCDScheduler" else {}
    wanted = {**spacing, **eta, "guidance_scale": guidance, "width": size[0], "height": size[1]}
    texts = {"prompt": [PROMPT] * len(SEEDS), "negative_prompt": negative}
    latents = pipe(latents=noise.clone(), output_type="latent", **texts, **wanted).images
    pipe.scheduler = own
    with torch.inference_mode():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    images = pipe.image_processor.postprocess(decoded.float(), output_type="pil")
    return latents.numpy(), np.stack([np.asarray(image) for image in images])


def ours(generator: Any, sampler: str, guidance: float, steps: int, size: tuple[int, int]) -> tuple[Any, Any]:
    """Latents and pixels of the loop over the contract, and the first states."""
    begin = partial(start, generator, prompt=PROMPT, negative=NEGATIVE, guidance=guidance, sampler=sampler)
    latents = finish(generator, [begin(seed, steps=steps, size=size) for seed in SEEDS])
    return np.stack([values(each) for each in latents]), to_host(generator.decode(latents))


def rounding(noise: Any, noise_scale: float) -> float:
    """Spacing of float32 at the first state: what the stock pipeline, too, cannot know better.

    Above 1e-4 only where a model's first noise is huge, as with cosine betas and an unscaled state.
    """
    return float(np.spacing(np.float32(float(noise.abs().max()) * noise_scale)))


def apart(one: Any, other: Any) -> float:
    """Largest difference of two arrays."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


def as_exact(found: tuple[Any, Any], wanted: tuple[Any, Any], exact: tuple[Any, Any], allowed: float = LATENTS) -> None:
    """Latents and pixels are at most twice as far from float64 as the stock pipeline in float32 is.

    How far two loops in float32 are apart depends on the CPU and on how a model magnifies rounding; both distances to
    float64 grow alike. `allowed`, and `LEVELS`, is the least that counts as far.
    """
    own = max(allowed, apart(wanted[0], exact[0]))
    assert apart(found[0], exact[0]) <= 2 * own, "farther from exact arithmetic than the stock pipeline"
    assert levels(found[1], exact[1]) <= max(LEVELS, 2 * levels(wanted[1], exact[1]))


SAMPLED = (
    ("euler", 6),
    ("ddim", 6),
    ("dpmpp_2m", 6),
    ("dpmpp_2m", 16),
    ("ddim", 1),
    (QUADRATIC, 6),
    (QUADRATIC, 16),
    ("unipc", 4),
    ("unipc", 16),
    ("heun", 1),
    ("heun", 6),
)


def _sampled() -> list[Any]:
    """All generators by all samplers. Many steps of one loop by a second network are left to the soak run."""
    found = []
    for name in REAL:
        for sampler, steps in SAMPLED:
            again = steps == 16 and name != "sd-epsilon" and (name, sampler) != ("pictogram", "dpmpp_2m")
            found.append(pytest.param(name, sampler, steps, marks=[pytest.mark.torch, *[pytest.mark.soak] * again]))
    return found


@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.soak), 4.0])
@pytest.mark.parametrize(("real", "sampler", "steps"), _sampled())
def test_equals_the_stock_pipeline(workshop: Workshop, real: str, sampler: str, steps: int, guidance: float) -> None:
    pipe, exact, generator = workshop.pipe(real), workshop.precise(real), workshop.generator(real)
    if sampler not in generator.info.samplers:
        assert (real, sampler) == ("pictogram", "heun")
        return
    size = (generator.info.width, generator.info.height)
    noise = unit_noise(pipe, *size)
    wanted = stock(pipe, scheduler_of(pipe, sampler), noise, guidance, steps, size)
    truth = stock(exact, scheduler_of(exact, sampler), noise.double(), guidance, steps, size)
    allowed = max(LATENTS, rounding(noise, generator.schedule(sampler, steps, *size).noise_scale))
    as_exact(ours(generator, sampler, guidance, steps, size), wanted, truth, allowed)


@pytest.mark.parametrize("name", ["sd-epsilon", "sdxl"])
def test_equals_the_stock_pipeline_at_another_size(workshop: Workshop, name: str) -> None:
    pipe, exact, generator, size = workshop.pipe(name), workshop.precise(name), workshop.generator(name), (40, 24)
    noise = unit_noise(pipe, *size)
    wanted = stock(pipe, scheduler_of(pipe, "ddim"), noise, 4.0, 3, size)
    truth = stock(exact, scheduler_of(exact, "ddim"), noise.double(), 4.0, 3, size)
    as_exact(ours(generator, "ddim", 4.0, 3, size), wanted, truth)


@pytest.mark.parametrize("name", ["sd-epsilon", "sd-v_prediction", "sdxl"])
@pytest.mark.parametrize("sampler", NOISY)
def test_noise_apart_equals_the_stock_pipeline(
    workshop: Workshop, name: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.generators import native as adapter

    module, still = NOISY[sampler]
    pipe, exact, generator = workshop.pipe(name), workshop.precise(name), workshop.generator(name)
    size, steps = (generator.info.width, generator.info.height), 5
    rows = [start(generator, seed, sampler=sampler, steps=steps).row for seed in SEEDS]
    drawn: list[Any] = []

    def same_noise(shape: Any, **_: Any) -> Any:
        at = [StepRow(r.latent, r.prompt, None, 1.0, r.schedule, len(drawn) % (steps - still), r.seed) for r in rows]
        drawn.append(adapter._ancestral_noise(at, np.ones(len(at))))
        return drawn[-1]

    monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", same_noise)
    noise = unit_noise(pipe, *size)
    found = ours(generator, sampler, 4.0, steps, size)
    wanted = stock(pipe, scheduler_of(pipe, sampler), noise, 4.0, steps, size)
    truth = stock(exact, scheduler_of(exact, sampler), noise.double(), 4.0, steps, size)
    assert len(drawn) == 2 * (steps - still)
    as_exact(found, wanted, truth)


def exact_euler(pipe: Any, generator: Any, noise: Any, guidance: float, steps: int) -> NDArray[np.float64]:
    """Euler's method on the pack's v-prediction with a float64 state, and a denoiser of the pipeline's precision."""
    import torch

    scheduler = scheduler_of(pipe, "euler")
    scheduler.set_timesteps(steps)
    sigmas, x = scheduler.sigmas.double(), noise.double() * float(scheduler.init_noise_sigma)
    prompt, negative = (each.state[0] for each in generator.encode([PROMPT, NEGATIVE]))
    for t, sigma, after in zip(scheduler.timesteps, sigmas, sigmas[1:], strict=False):
        seen = (x / (sigma**2 + 1) ** 0.5).to(pipe.unet.dtype)
        with torch.inference_mode():
            positive, away = (
                pipe.unet(seen, t, text.expand(len(x), -1, -1).to(seen.dtype))[0].double()
                for text in (prompt, negative)
            )
        output = away + guidance * (positive - away)
        x0 = x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        x = x + (x - x0) / sigma * (after - sigma)
    return np.asarray(x)


@pytest.mark.parametrize("steps", [1, 6, pytest.param(16, marks=pytest.mark.soak)])
def test_where_the_stock_pipeline_rounds_the_loop_is_exact(workshop: Workshop, steps: int) -> None:
    pipe, generator = workshop.pipe("pictogram"), workshop.generator("pictogram")
    size = (generator.info.width, generator.info.height)
    latents, _ = ours(generator, "euler", 4.0, steps, size)
    noise = unit_noise(pipe, *size)
    truth = exact_euler(workshop.precise("pictogram"), generator, noise, 4.0, steps)
    calls_alone = apart(exact_euler(pipe, generator, noise, 4.0, steps), truth)
    assert apart(latents, truth) <= 2 * max(LATENTS, calls_alone)


@pytest.mark.parametrize("name", ["sd-epsilon", "sd-v_prediction"])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "unipc", "heun"])
@pytest.mark.parametrize("strength", [0.3, 0.75])
def test_from_a_picture_equals_the_stock_pipeline(
    workshop: Workshop, name: str, sampler: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.domain import InitImage

    generator, steps = workshop.generator(name), 8
    picture = generator.dump(finish(generator, [start(generator, 5)]))[0].astype(np.float32)
    row = start(generator, 3, prompt=PROMPT, negative=NEGATIVE, guidance=4.0, sampler=sampler, steps=steps).row
    step = row.schedule.calls_before(steps - InitImage(strength, (), "").steps_made(sampler, steps))
    begun = replace(row, latent=generator.add_noise(picture, 3, row.schedule, step), step=step)
    (latent,) = finish(generator, [Candidate(begun)])
    monkeypatch.setattr("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img.randn_tensor", _drawn)
    wanted, truth = (
        _from_a_picture(pipe, sampler, picture, strength, steps)
        for pipe in (workshop.pipe(name), workshop.precise(name))
    )
    assert apart(values(latent), truth) <= 2 * max(LATENTS, apart(wanted, truth))


def _drawn(shape: Any, generator: Any, dtype: Any, **_: Any) -> Any:
    """The same numbers in every precision."""
    import torch

    return torch.randn(shape, generator=generator).to(dtype)


def _from_a_picture(pipe: Any, sampler: str, picture: Any, strength: float, steps: int) -> Any:
    """Latents of the stock pipeline for images, which has the parts of this one."""
    import torch
    from diffusers import StableDiffusionImg2ImgPipeline

    again = StableDiffusionImg2ImgPipeline(**{**pipe.components, "scheduler": scheduler_of(pipe, sampler)})
    again.set_progress_bar_config(disable=True)
    return again(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=torch.from_numpy(picture[None]).to(pipe.unet.dtype),
        strength=strength,
        guidance_scale=4.0,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images[0]
