"""Native loops beyond the suite of both paths: cores, half precision, variants of models, preview decoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.protocols import StepRow, to_host
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import JOBS, Gated, Job, Native, apart, driven, levels

pytestmark = pytest.mark.torch

NATIVE = [name for name, family in FAMILIES.items() if "native" in family.paths]
LATENTS = 2e-5
LEVELS = 2


def made(name: str, pipe: Any, **changes: Any) -> Any:
    """A native generator; `changes` are those of its placement."""
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    family = FAMILIES[name]
    defaults = {"width": family.size, "height": family.size}
    placement = replace(select_device("cpu"), **changes)
    return NativeGenerator(pipe, placement, id=name, defaults=defaults, arguments=family.arguments)


def rows_of(generator: Any, name: str, *jobs: Job) -> list[StepRow]:
    info, size = generator.info, FAMILIES[name].size
    rows = []
    for job in jobs:
        schedule = generator.schedule(info.sampler, job.steps, size, size)
        (prompt,), (negative,) = generator.encode([job.prompt]), generator.encode([job.negative], negative=True)
        noise = generator.noise(job.seed, size, size, schedule)
        guided = negative if info.negative_prompts else None
        rows.append(StepRow(noise, prompt, guided, FAMILIES[name].guidance, schedule, 0, job.seed))
    return rows


@pytest.mark.parametrize("name", NATIVE)
def test_cores_share_the_calls(name: str) -> None:
    from models.runtime.row_parallel import RowParallel

    native = driven(name, "native")
    shared = made(name, native.pipe, parallel=RowParallel(2))
    jobs = [replace(JOBS[0], seed=seed) for seed in range(3)]
    alone = [native.step([native.row(job)])[0].latent for job in jobs]
    found = shared.step(rows_of(shared, name, *jobs), 3)
    for latent, wanted in zip(found, alone, strict=True):
        assert apart(np.asarray(latent.x), np.asarray(wanted.x)) <= LATENTS
    assert levels(to_host(shared.decode(found)), native.pixels(alone)) <= LEVELS
    pixels = native.pixels(alone)
    one, other = (np.asarray(each.encode_image(pixels), np.float32) for each in (shared, native.generator))
    assert apart(one, other) <= 1e-3, "stored in half precision"


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("name", NATIVE)
def test_half_precision_runs_near_the_whole(name: str) -> None:
    import torch

    half = made(name, FAMILIES[name].build(name).to(torch.bfloat16), dtype=torch.bfloat16)
    whole = driven(name, "native")
    (latent,) = half.step(rows_of(half, name, JOBS[0]), 1)
    (wanted,) = whole.step([whole.row(JOBS[0])])
    assert latent.x.dtype == torch.float32
    assert half.info.dtype == "bfloat16"
    moved = np.asarray(wanted.latent.x) - np.asarray(whole.row(JOBS[0]).latent.x)
    off = np.asarray(latent.x) - np.asarray(wanted.latent.x)
    assert float(np.abs(off).mean()) <= 0.1 * float(np.abs(moved).mean())
    assert to_host(half.decode([latent], preview=True)).shape == whole.pixels([wanted.latent]).shape
    assert np.isfinite(half.encode_image(to_host(half.decode([latent])))).all()


def distilled(pipe: Any) -> None:
    pipe.register_to_config(is_distilled=True)


def without_guidance_input(pipe: Any) -> None:
    import diffusers
    import torch

    torch.manual_seed(1)
    config = {**pipe.transformer.config, "guidance_embeds": False}
    pipe.transformer = diffusers.FluxTransformer2DModel.from_config(config).eval()


def without_t5(pipe: Any) -> None:
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)


@pytest.mark.parametrize(
    ("name", "change", "guidance", "entries"),
    [
        ("flux2_klein", distilled, "none", 1),
        ("flux", without_guidance_input, "none", 1),
        ("krea2", distilled, "cfg", 2),
        ("stable_diffusion_3", without_t5, "cfg", 2),
    ],
)
def test_variants_equal_stock(name: str, change: Callable[[Any], None], guidance: str, entries: int) -> None:
    native, gated = Native(name, change), Gated(name, change)
    assert native.generator.info.guidance == gated.generator.info.guidance == guidance
    assert native.generator.info.negative_prompts == gated.generator.info.negative_prompts
    with native.counted() as calls:
        latents = native.finish([native.row(job) for job in JOBS])
    assert calls == [3 * entries] * 4 + [entries] * 2
    for job, latent in zip(JOBS, latents, strict=True):
        wanted = native.stock(job).latent
        assert apart(native.sample(latent, wanted), wanted) <= LATENTS


@pytest.mark.parametrize(
    ("name", "guidance", "entries"),
    [
        ("stable_diffusion_3", 1.0, [1]),
        ("qwen_image", 1.0, [1]),
        ("chroma", 1.0, [1]),
        ("sana", 1.0, [1]),
        ("z_image", 0.0, [1]),
        ("z_image", 0.5, [2]),
        ("krea2", 0.5, [2]),
        ("flux2_klein", 1.5, [2]),
    ],
)
def test_a_row_without_a_negative_is_guided_as_in_the_pipeline(name: str, guidance: float, entries: list[int]) -> None:
    native, gated = driven(name, "native"), driven(name, "gate")
    with native.counted() as calls:
        (row,) = native.step([replace(native.row(JOBS[0]), negative=None, guidance_scale=guidance)])
    assert calls == entries
    (wanted,) = gated.step([replace(gated.row(JOBS[0]), negative=None, guidance_scale=guidance)])
    like = np.asarray(wanted.latent.x)
    assert apart(native.sample(row.latent, like), like) <= LATENTS


def test_texts_of_unequal_length_share_calls_where_the_denoiser_pads() -> None:
    native = driven("z_image", "native")
    jobs = [Job("a red duck on a lake"), Job("a yellow duck on water", 7), Job("a yellow duck on a lake", 8)]
    rows = [native.row(job) for job in jobs]
    assert len({row.prompt.length for row in rows}) == 1
    assert len({int(row.prompt.state[1]) for row in rows}) == 3
    with native.counted() as calls:
        latents = native.finish(rows)
    assert calls == [3, 3] * 4, "the shorter negative is a call of its own"
    for job, latent in zip(jobs, latents, strict=True):
        assert apart(native.sample(latent, native.stock(job).latent), native.stock(job).latent) <= LATENTS


@pytest.mark.parametrize("name", ["flux", "qwen_image", "sana"])
def test_previews_may_have_a_decoder_of_their_own(name: str) -> None:
    import diffusers
    import torch

    from models.generators.native import NativeGenerator
    from models.runtime.placement import select_device

    torch.manual_seed(0)
    blocks = {f"{side}_block_out_channels": (16,) for side in ("encoder", "decoder")}
    counts = {"num_encoder_blocks": (1,), "num_decoder_blocks": (1,)}
    tiny = diffusers.AutoencoderTiny(**blocks, **counts).eval()
    native, family = driven(name, "native"), FAMILIES[name]
    defaults = {"width": family.size, "height": family.size}
    generator = NativeGenerator(
        native.pipe,
        select_device("cpu"),
        id=name,
        defaults=defaults,
        preview_decoder=tiny,
        arguments=dict(family.arguments),
    )
    latents = [native.step([native.row(JOBS[0])])[0].latent]
    whole, preview = (to_host(generator.decode(latents, preview=kind)) for kind in (False, True))
    assert levels(whole, native.pixels(latents)) == 0
    with torch.inference_mode():
        seen = tiny.decode(latents[0].x0[None].clone()).sample
    assert preview.shape[0] == 1
    assert levels(preview[0, :2, :2], to_host(_pixels(seen))[0, :2, :2]) <= LEVELS
    assert generator.info.revision.startswith(f"{native.generator.info.revision}+"), "calibrations are of both"


def _pixels(image: Any) -> Any:
    import torch

    return ((image * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("name", "id", "few"),
    [("flux2_klein", "flux2-klein-base", (4, 1.0)), ("krea2", "my-krea", (8, 0.0)), ("krea2", "no-turbo", (8, 0.0))],
)
def test_the_folder_says_whether_a_model_is_distilled(name: str, id: str, few: tuple[int, float]) -> None:
    from models.generators.pipeline_facts import few_steps

    pipe = FAMILIES[name].build(name)
    assert few_steps(id, pipe) is None
    pipe.register_to_config(is_distilled=True)
    assert few_steps(id, pipe) == (*few, "files")


def test_names_say_it_where_folders_do_not() -> None:
    from models.generators.pipeline_facts import few_steps

    assert few_steps("Tongyi-MAI/Z-Image-Turbo", object()) == (8, 0.0, "name")
    assert few_steps("black-forest-labs/FLUX.1-dev", object()) is None


def test_the_empty_text_is_encoded_once_for_schedules_and_rows() -> None:
    pipe = FAMILIES["flux"].build("flux")
    calls: list[Any] = []
    pipe.text_encoder_2.register_forward_hook(lambda *_: calls.append(1))
    generator = made("flux", pipe)
    for steps in (2, 3):
        generator.schedule(generator.info.sampler, steps, 16, 16)
    generator.encode(["", ""])
    assert calls == [1]
    generator.encode(["a dog"])
    assert calls == [1, 1]


def test_a_qwen_image_with_two_guidance_scales_is_left_to_the_gate() -> None:
    from models.errors import ModelUnsupported

    pipe = FAMILIES["qwen_image"].build("qwen_image")
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ModelUnsupported, match="FRONTRUNNER_GENERATOR_MODE=gate"):
        made("qwen_image", pipe)
