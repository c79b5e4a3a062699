"""A candidate that begins as a picture is that of the stock image-to-image pipeline."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.contract.gate_kit import Gated, Job, apart, recording

pytestmark = pytest.mark.torch

STOCK = {
    "stable_diffusion": "StableDiffusionImg2ImgPipeline",
    "stable_diffusion_xl": "StableDiffusionXLImg2ImgPipeline",
    "stable_diffusion_3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
    "z_image": "ZImageImg2ImgPipeline",
    "qwen_image": "QwenImageImg2ImgPipeline",
}
LATENTS = 2e-5
STEPS = 8


def scaled(pipe: Any, z: Any) -> Any:
    """A decoder's latents as image-to-image pipelines take them."""
    import torch

    config = pipe.vae.config
    if "latents_mean" in config and config.get("latents_mean") is not None:
        mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (config.latents_mean, config.latents_std))
        return (z - mean) / std
    return (z - (config.get("shift_factor") or 0.0)) * config.scaling_factor


@pytest.mark.parametrize("name", STOCK)
def test_from_a_picture_equals_the_stock_pipeline(name: str) -> None:
    import diffusers
    import torch

    gated, seen = Gated(name), list[Any]()
    info, size = gated.generator.info, gated.family.size
    job = Job(steps=STEPS, seed=5)
    picture = gated.generator.dump(gated.finish([gated.row(Job(seed=9))]))[0]
    schedule = gated.generator.schedule(info.sampler, STEPS, size, size)
    latent = gated.generator.add_noise(picture, job.seed, schedule, STEPS // 2)
    (ours,) = gated.finish([replace(gated.row(job), latent=latent, schedule=schedule, step=STEPS // 2)])

    parts = {**gated.pipe.components, "scheduler": recording(gated.pipe.scheduler, seen)}
    kind = getattr(diffusers, STOCK[name])
    stock = kind(**{key: part for key, part in parts.items() if key in inspect.signature(kind.__init__).parameters})
    stock.set_progress_bar_config(disable=True)
    wanted: dict[str, Any] = {"prompt": job.prompt, "num_inference_steps": STEPS, "strength": 0.5}
    wanted[str(gated.gate._stage.guidance_name)] = gated.family.guidance
    sides = {"width": size, "height": size}
    wanted |= {side: sides[side] for side in sides if side in inspect.signature(stock.__call__).parameters}
    if info.negative_prompts:
        wanted["negative_prompt"] = job.negative
    z = torch.from_numpy(picture[None].astype(np.float32))
    with torch.inference_mode():
        stock(
            image=scaled(gated.pipe, z),
            generator=torch.Generator().manual_seed(job.seed),
            output_type="latent",
            **wanted,
        )
    assert len(seen) == STEPS // 2
    assert apart(ours, seen[-1].numpy()) <= LATENTS
