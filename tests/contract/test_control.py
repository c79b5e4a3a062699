"""ControlNets and inpainting models behind the gate, as their stock pipelines run alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.protocols import StepRow, StepwiseGenerator
from models.protocols.image_inputs import Control, ImageInputs, Inpainting
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import built, recording

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")]

PROMPT, NEGATIVE, SEED, STEPS = "a red apple", "blue", 5, 4
LATENTS = 2e-5
NETS = ("stable_diffusion", "stable_diffusion_xl", "flux", "stable_diffusion_3", "qwen_image")


def net(name: str, seed: int = 0) -> Any:
    """A tiny ControlNet of the family, whose blocks have an effect."""
    import diffusers
    import torch

    pipe, _ = built(name)
    torch.manual_seed(seed)
    if name.startswith("stable_diffusion") and name != "stable_diffusion_3":
        made = diffusers.ControlNetModel.from_unet(
            pipe.unet, conditioning_channels=3, conditioning_embedding_out_channels=(16, 32)
        )
    elif name == "flux":
        made = diffusers.FluxControlNetModel.from_config(
            {**pipe.transformer.config, "num_layers": 1, "num_single_layers": 1}
        )
    elif name == "stable_diffusion_3":
        made = diffusers.SD3ControlNetModel.from_config({**pipe.transformer.config, "num_layers": 1})
    else:
        made = diffusers.QwenImageControlNetModel.from_config({**pipe.transformer.config, "num_layers": 1})
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return made.eval().requires_grad_(False)


def picture(seed: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


@functools.cache
def gate(name: str) -> Any:
    from models.generators.control import Net

    return gated(name, {"depth": Net(net(name)), "sketch": Net(net(name, 1))})


def gated(name: str, nets: dict[str, Any]) -> Any:
    from models.generators.gate.generator import PipelineGate
    from models.runtime.placement import select_device

    pipe, family = built(name)[0], FAMILIES[name]
    sides = {"width": family.size, "height": family.size}
    return PipelineGate(
        pipe, select_device("cpu"), id=name, defaults=sides, arguments=dict(family.arguments), nets=nets
    )


def row(generator: StepwiseGenerator, inputs: ImageInputs | None, seed: int = SEED, steps: int = STEPS) -> StepRow:
    info = generator.info
    schedule = generator.schedule(info.sampler, steps, info.width, info.height)
    negative = generator.encode([NEGATIVE], negative=True)[0] if info.negative_prompts else None
    noise = generator.noise(seed, info.width, info.height, schedule)
    prompt = generator.encode([PROMPT])[0]
    return StepRow(noise, prompt, negative, 4.0, schedule, 0, seed, inputs)


def finish(generator: StepwiseGenerator, rows: list[StepRow]) -> list[Any]:
    now = list(rows)
    while live := [index for index, each in enumerate(now) if each.step < each.schedule.steps]:
        latents = generator.step([now[index] for index in live], len(live))
        for index, latent in zip(live, latents, strict=True):
            now[index] = replace(now[index], latent=latent, step=now[index].step + 1)
    return [np.asarray(each.latent.x) for each in now]


def stock(pipe: Any, guidance: str | None, size: int, negative: bool, **images: Any) -> Any:
    """The last sample of a stock pipeline alone."""
    import torch

    seen: list[Any] = []
    pipe.scheduler = recording(pipe.scheduler, seen)
    pipe.set_progress_bar_config(disable=True)
    texts = {"prompt": PROMPT, **({"negative_prompt": NEGATIVE} if negative else {}), str(guidance): 4.0}
    with torch.inference_mode():
        pipe(
            **texts, **images, num_inference_steps=STEPS, width=size, height=size, output_type="latent",
            generator=torch.Generator().manual_seed(SEED),
        )  # fmt: skip
    return seen[-1].numpy()


def apart(one: Any, other: Any) -> float:
    return float(np.abs(one - other).max() / max(1.0, float(np.abs(other).max())))


@pytest.mark.parametrize("name", NETS)
def test_control_equals_the_stock_pipeline(name: str) -> None:
    from PIL import Image

    from models.generators.control import Net, controlled

    generator, family = gate(name), FAMILIES[name]
    size, image = family.size, picture(1, family.size)
    alone = controlled(built(name)[0], [Net(net(name))])
    key = "image" if name in ("stable_diffusion", "stable_diffusion_xl") else "control_image"
    if name == "stable_diffusion_3":  # its control images are drawn from the process's generator
        alone.vae = _most_likely(alone.vae)
    wanted = stock(
        alone, generator._stage.guidance_name, size, generator.info.negative_prompts,
        **{key: Image.fromarray(image), "controlnet_conditioning_scale": 0.7, **family.arguments},
    )  # fmt: skip
    inputs = ImageInputs(controls=(Control("depth", image, 0.7),))
    (found,) = finish(generator, [row(generator, inputs)])
    assert apart(found, wanted) <= LATENTS
    (free,) = finish(generator, [row(generator, None)])
    if name != "stable_diffusion_3":  # its only tiny block takes no control
        assert apart(found, free) > 10 * LATENTS


def _most_likely(vae: Any) -> Any:
    from models.generators.gate.runs import GatedDecoder

    return GatedDecoder(vae)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "flux"])
def test_controlled_rows_are_the_same_alone_and_beside_others(name: str) -> None:
    generator, size = gate(name), FAMILIES[name].size
    depth = ImageInputs(controls=(Control("depth", picture(1, size), 0.7),))
    light = ImageInputs(controls=(Control("depth", picture(2, size), 0.3),))
    sketch = ImageInputs(controls=(Control("sketch", picture(2, size), 1.0),))
    rows = [
        row(generator, depth), row(generator, None, 6), row(generator, sketch, 7, 3), row(generator, light, 8),
        row(generator, depth, 9, 6),
    ]  # fmt: skip
    for together, one in zip(finish(generator, rows), rows, strict=True):
        assert apart(together, finish(generator, [one])[0]) <= LATENTS


def test_rows_of_one_control_share_their_calls() -> None:
    """As many rows as a ControlNet has blocks, whose lists must not be taken for rows."""
    from models.generators.gate import generator as module
    from models.generators.gate.calls import together

    generator, size = gate("stable_diffusion"), FAMILIES["stable_diffusion"].size
    made: list[int] = []
    inputs = [ImageInputs(controls=(Control("depth", picture(each, size), 0.7),)) for each in range(6)]
    rows = [row(generator, each, seed, 2) for seed, each in enumerate(inputs)]
    alone = [finish(generator, [each])[0] for each in rows]

    def counted(calls: Any) -> Any:
        made.append(len(calls))
        return together(calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "together", counted)
        found = finish(generator, rows)
    assert made == [6] * 4, "two steps, each one call of the ControlNet and one of the UNet"
    assert max(apart(one, other) for one, other in zip(found, alone, strict=True)) <= LATENTS


def test_two_controls_at_once() -> None:
    from PIL import Image

    from models.generators.control import Net, controlled

    name = "stable_diffusion"
    generator, size = gate(name), FAMILIES[name].size
    images = picture(1, size), picture(2, size)
    alone = controlled(built(name)[0], [Net(net(name)), Net(net(name, 1))])
    wanted = stock(
        alone, "guidance_scale", size, True,
        image=[Image.fromarray(each) for each in images], controlnet_conditioning_scale=[0.7, 0.4],
    )  # fmt: skip
    inputs = ImageInputs(controls=(Control("depth", images[0], 0.7), Control("sketch", images[1], 0.4)))
    rows = [row(generator, inputs), row(generator, inputs, 6)]
    found = finish(generator, rows)
    assert apart(found[0], wanted) <= LATENTS
    assert apart(found[1], finish(generator, rows[1:])[0]) <= LATENTS


def test_a_control_without_weight_has_no_effect() -> None:
    generator, size = gate("stable_diffusion"), FAMILIES["stable_diffusion"].size
    nothing = ImageInputs(controls=(Control("depth", picture(1, size), 0.0),))
    beside = ImageInputs(controls=(*nothing.controls, Control("sketch", picture(2, size), 0.5)))
    alone = ImageInputs(controls=beside.controls[1:])
    found, free, both, one = (finish(generator, [row(generator, each)])[0] for each in (nothing, None, beside, alone))
    assert (found == free).all()
    assert (both == one).all()
    assert apart(one, free) > 10 * LATENTS


def test_control_and_mask_join() -> None:
    generator, size = gate("stable_diffusion"), FAMILIES["stable_diffusion"].size
    source = generator.dump([_latent(generator)])[0]
    mask = np.zeros((size, size), bool)
    mask[size // 2 :] = True
    control = (Control("depth", picture(1, size), 1.0),)
    both = ImageInputs(Inpainting(picture(3, size), source, mask), control)
    (found,) = finish(generator, [row(generator, both)])
    (free,) = finish(generator, [row(generator, replace(both, controls=()))])
    scaled = source.astype(np.float32) * built("stable_diffusion")[0].vae.config.scaling_factor
    top = source.shape[-2] // 2
    np.testing.assert_allclose(found[0, :, :top], scaled[:, :top], rtol=1e-3, atol=1e-3)
    assert apart(found, free) > 10 * LATENTS


def _latent(generator: StepwiseGenerator) -> Any:
    first = row(generator, None, 9, 1)
    return generator.step([first], 1)[0]


# inpainting models


def inpainting_pipe(name: str) -> Any:
    """A tiny inpainting model: its denoiser takes a mask and the masked image."""
    import diffusers
    import torch

    torch.manual_seed(0)
    pipe, _ = built(name)
    parts = {key: part for key, part in pipe.components.items() if key not in {"unet", "transformer"}}
    if name == "flux":
        width = pipe.transformer.config.in_channels
        factor = pipe.vae_scale_factor
        config = {**pipe.transformer.config, "in_channels": 2 * width + 4 * factor**2, "out_channels": width}
        config.pop("_use_default_values", None)
        parts = {
            key: parts[key]
            for key in ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        }
        return diffusers.FluxFillPipeline(
            **parts, transformer=diffusers.FluxTransformer2DModel.from_config(config).eval()
        )
    unet = diffusers.UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9}).eval()
    if name == "stable_diffusion":
        known = diffusers.StableDiffusionInpaintPipeline
        return known(**{**parts, "safety_checker": None}, unet=unet, requires_safety_checker=False)
    return diffusers.StableDiffusionXLInpaintPipeline(**parts, unet=unet, add_watermarker=False)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "flux"])
def test_an_inpainting_model_equals_the_stock_pipeline(name: str) -> None:
    from PIL import Image

    from models.generators.gate.generator import PipelineGate
    from models.generators.pipelines import check
    from models.runtime.placement import select_device

    pipe, family = inpainting_pipe(name), FAMILIES[name]
    check(type(pipe).__name__)
    size = family.size
    generator = PipelineGate(
        pipe, select_device("cpu"), id=name, defaults={"width": size, "height": size}, arguments=dict(family.arguments)
    )
    mask = np.zeros((size, size), bool)
    mask[size // 2 :, : size // 2] = True
    source = picture(4, size)
    latents = generator.encode_image(source[None])[0]
    inputs = ImageInputs(Inpainting(source, latents, mask))
    found, whole = finish(generator, [row(generator, inputs), row(generator, None, 6)])
    assert apart(whole, finish(generator, [row(generator, None, 6)])[0]) <= LATENTS
    wanted = stock(
        pipe, generator._stage.guidance_name, size, generator.info.negative_prompts, image=Image.fromarray(source),
        mask_image=Image.fromarray(mask.astype(np.uint8) * 255), strength=1.0, **family.arguments,
    )  # fmt: skip
    assert apart(found, wanted) <= LATENTS


# what does not fit


def test_nets_that_do_not_fit(tmp_path: Any) -> None:
    from models.errors import ModelNotFound, ModelUnsupported
    from models.generators.control import load_nets
    from models.runtime.placement import select_device

    placement, pipe = select_device("cpu"), built("stable_diffusion")[0]
    net("stable_diffusion").save_pretrained(tmp_path / "sd")
    net("flux").save_pretrained(tmp_path / "flux")
    (tmp_path / "empty").mkdir()
    assert set(load_nets({"depth": str(tmp_path / "sd")}, pipe, placement)) == {"depth"}
    with pytest.raises(ModelNotFound, match="no ControlNet at 'empty'"):
        load_nets({"depth": str(tmp_path / "empty")}, pipe, placement)
    with pytest.raises(ModelUnsupported, match="of class FluxControlNetModel"):
        load_nets({"depth": str(tmp_path / "flux")}, pipe, placement)
    with pytest.raises(ModelUnsupported, match="takes no ControlNet"):
        load_nets({"depth": str(tmp_path / "sd")}, built("sana")[0], placement)
    assert load_nets({}, built("sana")[0], placement) == {}
