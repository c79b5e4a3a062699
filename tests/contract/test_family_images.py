"""A candidate that begins as a picture is that of the stock image-to-image pipeline."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.families import FAMILIES, IMAGE_TO_IMAGE, Path
from tests.contract.gate_kit import Job, apart, driven, recording

pytestmark = pytest.mark.torch

LATENTS = 2e-5
STEPS = 8


WAYS = [(name, path) for name in IMAGE_TO_IMAGE for path in FAMILIES[name].paths]


@pytest.mark.parametrize(("name", "path"), WAYS)
def test_from_a_picture_equals_the_stock_pipeline(name: str, path: Path) -> None:
    import diffusers
    import torch

    gated, seen = driven(name, path), list[Any]()
    info, size = gated.generator.info, gated.family.size
    job = Job(steps=STEPS, seed=5)
    picture = gated.generator.dump(gated.finish([gated.row(Job(seed=9))]))[0]
    schedule = gated.generator.schedule(info.sampler, STEPS, size, size)
    latent = gated.generator.add_noise(picture, job.seed, schedule, STEPS // 2)
    (ours,) = gated.finish([replace(gated.row(job), latent=latent, schedule=schedule, step=STEPS // 2)])

    parts = {**gated.pipe.components, "scheduler": recording(gated.pipe.scheduler, seen)}
    kind = getattr(diffusers, IMAGE_TO_IMAGE[name])
    stock = kind(**{key: part for key, part in parts.items() if key in inspect.signature(kind.__init__).parameters})
    stock.set_progress_bar_config(disable=True)
    wanted: dict[str, Any] = {"prompt": job.prompt, "num_inference_steps": STEPS, "strength": 0.5}
    wanted[str(gated.guidance_name)] = gated.family.guidance
    sides = {"width": size, "height": size}
    wanted |= {side: sides[side] for side in sides if side in inspect.signature(stock.__call__).parameters}
    if info.negative_prompts:
        wanted["negative_prompt"] = job.negative
    with torch.inference_mode():
        stock(
            image=gated.stored_as_image(picture),
            generator=torch.Generator().manual_seed(job.seed),
            output_type="latent",
            **wanted,
        )
    assert len(seen) == STEPS // 2
    assert apart(gated.sample(ours, seen[-1].numpy()), seen[-1].numpy()) <= LATENTS
