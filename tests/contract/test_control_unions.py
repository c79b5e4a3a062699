"""ControlNets for several kinds behind the gate, as their stock pipelines run alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import ModelNotFound, ModelUnsupported
from models.generators import control
from models.generators.control import Net, load_nets
from models.protocols.image_inputs import Control, ImageInputs
from models.runtime.placement import select_device
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import built
from tests.contract.test_control import LATENTS, apart, finish, gated, net, picture, row, stock

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")]

UNIONS = ("stable_diffusion_xl", "flux")


@functools.cache
def union(name: str, modes: int = 6) -> Any:
    """A tiny union of the family, whose blocks have an effect."""
    import diffusers
    import torch

    pipe, _ = built(name)
    torch.manual_seed(2)
    if name == "flux":
        made = diffusers.FluxControlNetModel.from_config(
            {**pipe.transformer.config, "num_layers": 1, "num_single_layers": 1, "num_mode": modes}
        )
    else:
        made = diffusers.ControlNetUnionModel.from_unet(pipe.unet)
        config = {**made.config, "num_control_type": modes, "conditioning_embedding_out_channels": (16, 32)}
        config |= {"num_trans_channel": 32, "num_proj_channel": 32}
        config.pop("_use_default_values", None)
        made = diffusers.ControlNetUnionModel.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return made.eval().requires_grad_(False)


@functools.cache
def gate(name: str) -> Any:
    return gated(name, load_nets_of(name))


def load_nets_of(name: str) -> dict[str, Net]:
    return control._kinds("union", union(name))


def asked(name: str, *kinds: str, weights: tuple[float, ...] = (0.7, 0.4)) -> ImageInputs:
    size = FAMILIES[name].size
    images = (Control(kind, picture(seed, size), weights[seed]) for seed, kind in enumerate(kinds))
    return ImageInputs(controls=tuple(images))


def wanted(name: str, inputs: ImageInputs) -> Any:
    """What the pipeline of diffusers makes of these images, with the modes as numbers."""
    import diffusers
    from PIL import Image

    generator, family, pipe = gate(name), FAMILIES[name], built(name)[0]
    modes = [control.MODES[type(union(name)).__name__].index(each.kind) for each in inputs.controls]
    images = [Image.fromarray(each.image) for each in inputs.controls]
    weights, single = [each.weight for each in inputs.controls], len(modes) == 1
    if name == "flux":
        parts = {
            key: part for key, part in pipe.components.items() if key not in {"image_encoder", "feature_extractor"}
        }
        nets = union(name) if single else [union(name)] * len(modes)
        alone: Any = diffusers.FluxControlNetPipeline(**parts, controlnet=nets)
    else:
        parts = {**pipe.components, "add_watermarker": False}
        alone = diffusers.StableDiffusionXLControlNetUnionPipeline(**parts, controlnet=union(name))
    return stock(
        alone, generator._stage.guidance_name, family.size, generator.info.negative_prompts,
        control_image=images[0] if single else images, control_mode=modes[0] if single else modes,
        controlnet_conditioning_scale=weights[0] if single else weights, **family.arguments,
    )  # fmt: skip


def test_each_kind_is_offered_by_name() -> None:
    assert gate("stable_diffusion_xl").info.controls == ("canny", "depth", "normal", "pose", "segment", "sketch")
    assert gate("flux").info.controls == ("blur", "canny", "depth", "gray", "pose", "tile")


@pytest.mark.parametrize("name", UNIONS)
@pytest.mark.parametrize("kinds", [("depth",), ("pose",), ("canny", "depth")])
def test_a_union_equals_the_stock_pipeline(name: str, kinds: tuple[str, ...]) -> None:
    generator, inputs = gate(name), asked(name, *kinds)
    (found,) = finish(generator, [row(generator, inputs)])
    assert apart(found, wanted(name, inputs)) <= LATENTS
    (free,) = finish(generator, [row(generator, None)])
    assert apart(found, free) > 10 * LATENTS


@pytest.mark.parametrize("name", UNIONS)
def test_the_kind_counts(name: str) -> None:
    generator = gate(name)
    kinds = ("depth", "canny", "pose")
    made = [finish(generator, [row(generator, asked(name, kind))])[0] for kind in kinds]
    for index, one in enumerate(made):
        assert all(apart(one, other) > LATENTS for other in made[:index])


@pytest.mark.parametrize("name", UNIONS)
def test_rows_of_several_kinds_are_the_same_alone_and_beside_others(name: str) -> None:
    generator = gate(name)
    rows = [
        row(generator, asked(name, "depth")), row(generator, None, 6), row(generator, asked(name, "canny"), 7, 3),
        row(generator, asked(name, "canny", "depth"), 8), row(generator, asked(name, "depth", weights=(0.3,)), 9),
        row(generator, asked(name, "depth", "canny"), 8), row(generator, asked(name, "depth"), 5, 6),
    ]  # fmt: skip
    for together, one in zip(finish(generator, rows), rows, strict=True):
        assert apart(together, finish(generator, [one])[0]) <= LATENTS


def test_rows_of_one_kind_share_their_calls() -> None:
    from models.generators.gate import generator as module
    from models.generators.gate.calls import together

    generator, made = gate("stable_diffusion_xl"), list[int]()
    rows = [row(generator, asked("stable_diffusion_xl", "depth"), seed, 2) for seed in range(3)]
    finish(generator, rows)

    def counted(calls: Any) -> Any:
        made.append(len(calls))
        return together(calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "together", counted)
        finish(generator, [replace(each) for each in rows])
    assert made == [3] * 4, "two steps, each one call of the union and one of the UNet"


# from the settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    union("stable_diffusion_xl").save_pretrained(folder / "all")
    net("stable_diffusion_xl").save_pretrained(folder / "plain")
    net("stable_diffusion").save_pretrained(folder / "other")
    union("flux").save_pretrained(folder / "flux")
    net("flux").save_pretrained(folder / "flux-plain")
    return folder


def loaded(name: str, **named: Path) -> dict[str, Net]:
    sources = {kind: str(source) for kind, source in named.items()}
    return load_nets(sources, built(name)[0], select_device("cpu"))


def test_an_entry_offers_one_kind_or_all(folders: Path) -> None:
    everything = loaded("stable_diffusion_xl", union=folders / "all")
    assert {kind: each.mode for kind, each in everything.items()} == {
        "pose": 0, "depth": 1, "sketch": 2, "canny": 3, "normal": 4, "segment": 5,
    }  # fmt: skip
    assert len({id(each.model) for each in everything.values()}) == 1
    some = loaded("stable_diffusion_xl", depth=folders / "all", sketch=folders / "all")
    assert {kind: each.mode for kind, each in some.items()} == {"depth": 1, "sketch": 2}
    assert some["depth"].model is some["sketch"].model, "one file is loaded once"
    assert loaded("stable_diffusion_xl", sketch=folders / "plain")["sketch"].mode is None
    mixed = loaded("flux", union=folders / "flux", mine=folders / "flux-plain")
    assert (mixed["mine"].mode, mixed["pose"].mode) == (None, 4)


def test_unions_that_do_not_fit(folders: Path) -> None:
    with pytest.raises(
        ModelUnsupported, match=r"'mine': the ControlNet joins the kinds pose, depth, .*; name it union"
    ):
        loaded("stable_diffusion_xl", mine=folders / "all")
    with pytest.raises(ModelUnsupported, match="control 'depth' is named twice"):
        loaded("stable_diffusion_xl", depth=folders / "all", union=folders / "all")
    with pytest.raises(ModelUnsupported, match="either unions or not; name only unions, or none"):
        loaded("stable_diffusion_xl", mine=folders / "plain", union=folders / "all")
    with pytest.raises(
        ModelUnsupported, match="'all' is of class ControlNetUnionModel; the pipeline takes ControlNetModel"
    ):
        loaded("stable_diffusion", union=folders / "all")
    with pytest.raises(ModelUnsupported, match="takes ControlNetModel or ControlNetUnionModel"):
        loaded("stable_diffusion_xl", union=folders / "flux")


def test_a_controlnet_without_a_tensor_is_refused(folders: Path, tmp_path: Path) -> None:
    from tests.contract.test_missing_tensors import changed, without_one

    union("stable_diffusion_xl").save_pretrained(tmp_path / "broken")
    lost = changed(tmp_path / "broken", without_one)
    with pytest.raises(
        ModelNotFound, match=r"ControlNet 'broken' of control 'union' lacks 1 of \d+ tensors"
    ) as refused:
        loaded("stable_diffusion_xl", union=tmp_path / "broken")
    assert lost in str(refused.value)
