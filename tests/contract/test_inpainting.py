"""Only the masked part of an image is redrawn, as the stock inpainting pipelines redraw it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.protocols import StepRow, StepwiseGenerator, to_host
from models.protocols.image_inputs import ImageInputs, Inpainting
from tests.contract.conftest import Workshop
from tests.contract.families import FAMILIES, IMAGE_TO_IMAGE, Path
from tests.contract.gate_kit import Driven, Job, driven, recording
from tests.contract.gate_kit import apart as share_apart
from tests.contract.loop import Candidate, difference, finish, levels, start, values
from tests.contract.test_parity import LATENTS, apart, scheduler_of

PROMPT, NEGATIVE = "two green cars", "blue"
STEPS = 6
NO_STOCK = {"stable_diffusion_3", "z_image", "chroma"}
"""Their stock pipelines take no latents of tiny models; Chroma's reads a setting that its denoiser lacks."""
INPAINT = {name: kind.replace("Img2Img", "Inpaint") for name, kind in IMAGE_TO_IMAGE.items()}
WAYS = [(name, path) for name in INPAINT if name not in NO_STOCK for path in FAMILIES[name].paths]


def area(height: int, width: int, factor: int) -> NDArray[np.bool_]:
    """The lower left part, in whole latent cells of two by two."""
    mask = np.zeros((height, width), np.bool_)
    mask[height // 2 :, : max(2 * factor, width // 2 // factor * factor)] = True
    return mask


def source_of(generator: StepwiseGenerator, mask: NDArray[np.bool_] | None = None) -> ImageInputs:
    """An image of the generator's own, and its lower left part as the mask."""
    latents = finish(generator, [start(generator, 5, steps=4)])
    stored, pixels = generator.dump(latents)[0], to_host(generator.decode(latents))[0]
    if mask is None:
        height, width = pixels.shape[:2]
        mask = area(height, width, height // stored.shape[-2])
    return ImageInputs(Inpainting(pixels, stored, mask))


def inpainted(
    generator: StepwiseGenerator, inputs: ImageInputs, seed: int = 3, begin: int = 0, **how: Any
) -> Candidate:
    """A candidate before step `begin` that starts from the source."""
    assert inputs.inpainting is not None
    row = start(generator, seed, prompt=PROMPT, negative=NEGATIVE, steps=STEPS, **how).row
    latent = generator.add_noise(inputs.inpainting.latents, seed, row.schedule, begin) if begin else row.latent
    return Candidate(replace(row, latent=latent, step=begin, inputs=inputs))


def test_the_rest_ends_as_the_source(generator: StepwiseGenerator) -> None:
    inputs = source_of(generator)
    assert inputs.inpainting is not None
    cells, source = inputs.inpainting.cells, inputs.inpainting.latents.astype(np.float32)
    for sampler in generator.info.samplers:
        for begin in (0, 3):
            (latent,) = finish(generator, [inpainted(generator, inputs, begin=begin, sampler=sampler)])
            np.testing.assert_array_equal(values(latent)[:, ~cells], source[:, ~cells])
            assert np.abs(values(latent)[:, cells] - source[:, cells]).max() > 0.05


def test_a_masked_row_is_the_same_alone_and_beside_others(generator: StepwiseGenerator) -> None:
    inputs = source_of(generator)
    batch = [
        inpainted(generator, inputs),
        start(generator, 8, steps=4),
        inpainted(generator, source_of(generator), seed=4, begin=2),
    ]
    beside = finish(generator, batch)
    assert difference(beside[0], finish(generator, [inpainted(generator, inputs)])[0]) <= LATENTS
    assert difference(beside[1], finish(generator, [start(generator, 8, steps=4)])[0]) <= LATENTS


def test_a_mask_is_read_in_latent_cells(generator: StepwiseGenerator) -> None:
    whole = source_of(generator).inpainting
    assert whole is not None
    factor = whole.mask.shape[0] // whole.cells.shape[0]
    mask = np.zeros_like(whole.mask)
    mask[factor, factor] = True
    one = replace(whole, mask=mask)
    assert one.cells.sum() == 1
    assert one.cells[1, 1]
    image = to_host(generator.decode(finish(generator, [start(generator, 9)])))[0]
    changed = (one.paste(image) != whole.source).any(axis=2)
    assert not changed[~mask].any()
    everything = replace(whole, mask=np.ones_like(whole.mask))
    assert levels(everything.paste(image), image) == 0


@pytest.mark.torch
@pytest.mark.parametrize("name", ["sd-epsilon", "sd-v_prediction", "sdxl"])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_equals_the_stock_pipeline(workshop: Workshop, name: str, sampler: str, strength: float) -> None:
    generator = workshop.generator(name)
    inputs = source_of(generator)
    begin = STEPS - int(STEPS * strength)
    (latent,) = finish(generator, [inpainted(generator, inputs, begin=begin, sampler=sampler, guidance=4.0)])
    wanted, truth = (
        _stock(pipe, scheduler_of(pipe, sampler), inputs, strength)
        for pipe in (workshop.pipe(name), workshop.precise(name))
    )
    assert apart(values(latent), truth) <= 2 * max(LATENTS, apart(wanted, truth))


def _stock(pipe: Any, scheduler: Any, inputs: ImageInputs, strength: float) -> Any:
    """Latents of the stock inpainting pipeline, which has the parts of this one."""
    import diffusers
    import torch

    assert inputs.inpainting is not None
    kind = getattr(diffusers, type(pipe).__name__.replace("Pipeline", "InpaintPipeline"))
    known = inspect.signature(kind.__init__).parameters
    parts = {key: part for key, part in pipe.components.items() if key in known}
    again = kind(**{**parts, "scheduler": scheduler})
    again.set_progress_bar_config(disable=True)
    source = torch.from_numpy(inputs.inpainting.latents.astype(np.float32)[None]).to(pipe.unet.dtype)
    height, width = inputs.inpainting.mask.shape
    drawn = torch.randn(source.shape, generator=torch.Generator().manual_seed(3)).to(pipe.unet.dtype)
    given = {"latents": drawn} if strength == 1 else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect.getmodule(kind), "randn_tensor", lambda *_args, **_kwargs: drawn)
        return again(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            image=source,
            mask_image=torch.from_numpy(inputs.inpainting.mask.astype(np.float32))[None, None],
            masked_image_latents=source,
            width=width,
            height=height,
            strength=strength,
            guidance_scale=4.0,
            num_inference_steps=STEPS,
            output_type="latent",
            **given,
        ).images[0]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "path"), WAYS)
@pytest.mark.parametrize("begin", [0, STEPS // 2])
def test_any_family_equals_its_stock_pipeline(name: str, path: Path, begin: int) -> None:
    import diffusers
    import torch

    gated, seen = driven(name, path), list[Any]()
    size = gated.family.size
    source = gated.generator.dump(gated.finish([gated.row(Job(seed=9))]))[0]
    mask = area(size, size, size // source.shape[-1])
    inputs = ImageInputs(Inpainting(np.zeros((size, size, 3), np.uint8), source, mask))
    job = Job(steps=STEPS, seed=5)
    (ours,) = gated.finish([_masked(gated, job, inputs, begin)])

    kind = getattr(diffusers, INPAINT[name])
    parts = {**gated.pipe.components, "scheduler": gated.pipe.scheduler}
    stock = kind(**{key: part for key, part in parts.items() if key in inspect.signature(kind.__init__).parameters})
    stock.scheduler = recording(gated.pipe.scheduler, seen)
    stock.set_progress_bar_config(disable=True)
    wanted: dict[str, Any] = {"prompt": job.prompt, "num_inference_steps": STEPS}
    wanted[str(gated.guidance_name)] = gated.family.guidance
    if gated.generator.info.negative_prompts:
        wanted["negative_prompt"] = job.negative
    wanted |= {
        "image": gated.stored_as_image(source),
        "mask_image": torch.from_numpy(mask.astype(np.float32))[None, None],
    }
    wanted |= {"strength": 1 - begin / STEPS, "width": size, "height": size}
    wanted["masked_image_latents"] = torch.zeros(1, 3, size, size)  # encoded, then ignored by models without mask input
    known = inspect.signature(stock.__call__).parameters
    with torch.inference_mode():
        found = stock(
            **{key: value for key, value in wanted.items() if key in known},
            generator=torch.Generator().manual_seed(job.seed),
            output_type="latent",
        ).images
    assert len(seen) == STEPS - begin
    assert share_apart(gated.sample(ours, seen[-1].numpy()), np.asarray(found).reshape(seen[-1].shape)) <= 2e-5


def _masked(gated: Driven, job: Job, inputs: ImageInputs, begin: int = 0) -> StepRow:
    assert inputs.inpainting is not None
    row = replace(gated.row(job), inputs=inputs, step=begin)
    if begin:
        row = replace(row, latent=gated.generator.add_noise(inputs.inpainting.latents, job.seed, row.schedule, begin))
    return row


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in (*sorted(NO_STOCK), "sana", "flux") for path in FAMILIES[name].paths]
)
def test_the_rest_of_any_family_ends_as_the_source(name: str, path: Path) -> None:
    gated = driven(name, path)
    size, job, other = gated.family.size, Job(steps=STEPS, seed=5), Job(seed=12, steps=4)
    source = gated.generator.dump(gated.finish([gated.row(Job(seed=9))]))[0]
    mask = area(size, size, size // source.shape[-1])
    inputs = ImageInputs(Inpainting(np.zeros((size, size, 3), np.uint8), source, mask))
    assert inputs.inpainting is not None
    masked, beside = gated.finish([_masked(gated, job, inputs, 2), gated.row(other)])
    alone = gated.finish([_masked(gated, job, inputs, 2)])[0], gated.finish([gated.row(other)])[0]
    for one, two in zip((masked, beside), alone, strict=True):
        assert share_apart(np.asarray(one.x), np.asarray(two.x)) <= 2e-5
    ended, cells = gated.generator.dump([masked])[0].astype(np.float32), inputs.inpainting.cells
    kept = source.astype(np.float32)
    np.testing.assert_allclose(ended[:, ~cells], kept[:, ~cells], rtol=2e-3, atol=2e-3)
    assert np.abs(ended[:, cells] - kept[:, cells]).max() > 0.05
