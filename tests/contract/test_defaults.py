"""Default steps, guidance, sampler and size of a folder: the same on its native loop and behind the gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.generators.pipeline_facts import _DISTILLED, _FEW_STEPS
from tests.contract.families import FAMILIES

pytestmark = pytest.mark.torch


def scheduled(name: str, **config: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        import diffusers

        known = {key: value for key, value in pipe.scheduler.config.items() if key != "_use_default_values"}
        pipe.scheduler = getattr(diffusers, name).from_config({**known, **config})

    return change


def distilled(known: bool) -> Callable[[Any], None]:
    return lambda pipe: pipe.register_to_config(is_distilled=known)


def embedded(pipe: Any) -> None:
    """An LCM's UNet, which takes the guidance scale as an input."""
    import diffusers

    config = {**pipe.unet.config, "time_cond_proj_dim": 32}
    config.pop("_use_default_values")
    pipe.unet = diffusers.UNet2DConditionModel.from_config(config).eval()


def trailing(pipe: Any) -> None:
    """Timesteps spaced as in SD-Turbo and SDXL-Turbo."""
    scheduled("EulerDiscreteScheduler", timestep_spacing="trailing")(pipe)


def large(pipe: Any) -> None:
    """SDXL's own size, and the spacing of SDXL-Turbo."""
    trailing(pipe)
    pipe.unet.register_to_config(sample_size=96)


CASES: dict[str, tuple[str, str, Callable[[Any], None] | None, tuple[int, float, str, str]]] = {
    "plain-sd": ("stable_diffusion", "dreamshaper", None, (30, 7.5, "euler", "pipeline")),
    "plain-sdxl": ("stable_diffusion_xl", "sdxl-base", None, (30, 5.0, "euler", "pipeline")),
    "sd-turbo": ("stable_diffusion", "sd-turbo", trailing, (1, 0.0, "euler", "files")),
    "sd-trailing": ("stable_diffusion", "zero-snr", trailing, (30, 7.5, "euler", "pipeline")),
    "sdxl-turbo": (
        "stable_diffusion_xl",
        "mine",
        scheduled("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
        (1, 0.0, "euler_ancestral", "files"),
    ),
    "sdxl-turbo-merge": ("stable_diffusion_xl", "dreamshaper-xl-turbo", None, (6, 2.0, "euler", "name")),
    "sdxl-turbo-large": ("stable_diffusion_xl", "xl-turbo-trailing", large, (6, 2.0, "euler", "name")),
    "sdxl-lightning": ("stable_diffusion_xl", "SDXL-Lightning", None, (4, 1.0, "euler", "name")),
    "lcm-pipeline": ("latent_consistency", "lcm-dreamshaper", None, (4, 8.5, "lcm", "files")),
    "lcm-unet": ("stable_diffusion_xl", "lcm-sdxl", embedded, (4, 8.5, "euler", "files")),
    "lcm-scheduler": ("stable_diffusion_xl", "merged", scheduled("LCMScheduler"), (4, 1.0, "lcm", "files")),
    "tcd-scheduler": ("stable_diffusion", "hyper", scheduled("TCDScheduler"), (4, 1.0, "tcd", "files")),
    "pndm": (
        "stable_diffusion",
        "v1-5",
        scheduled("PNDMScheduler", skip_prk_steps=True),
        (30, 7.5, "dpmpp_2m", "pipeline"),
    ),
    "heun": ("stable_diffusion", "heun", scheduled("HeunDiscreteScheduler"), (30, 7.5, "heun", "pipeline")),
    "plain-flux": ("flux", "FLUX.1-dev", None, (28, 3.5, "flow_match_euler", "pipeline")),
    "schnell": ("flux", "FLUX.1-schnell", None, (4, 0.0, "flow_match_euler", "name")),
    "plain-sd3": ("stable_diffusion_3", "stable-diffusion-3.5-medium", None, (28, 7.0, "flow_match_euler", "pipeline")),
    "sd3-turbo": ("stable_diffusion_3", "stable-diffusion-3.5-large-turbo", None, (8, 0.0, "flow_match_euler", "name")),
    "z-image-turbo": ("z_image", "Z-Image-Turbo", None, (8, 0.0, "flow_match_euler", "name")),
    "klein-base": ("flux2_klein", "FLUX.2-klein-base", distilled(False), (50, 4.0, "flow_match_euler", "pipeline")),
    "klein": ("flux2_klein", "mine", distilled(True), (4, 1.0, "flow_match_euler", "files")),
    "krea-raw": ("krea2", "Krea-2-Turbo", distilled(False), (28, 4.5, "flow_match_euler", "pipeline")),
    "krea-turbo": ("krea2", "mine", distilled(True), (8, 0.0, "flow_match_euler", "files")),
    "sprint": ("sana_sprint", "Sana_Sprint", None, (2, 4.5, "scm", "name")),
}
"""Family, folder, what is changed; default steps, guidance and sampler, and what the first two follow from."""

NOT_FROM_FOLDERS = ("flux2_klein", "krea2", "sana_sprint", "z_image")
"""Families whose tiny builds need arguments or a small size, which a folder does not hold."""


def described(case: str, folder: Path, mode: str) -> tuple[Any, ...]:
    name, id, change, _ = CASES[case]
    pipe = FAMILIES[name].build(name)
    if change is not None:
        change(pipe)
    if name in NOT_FROM_FOLDERS:
        return _of(_generator(pipe, name, id, mode).info)
    pipe.save_pretrained(folder / id)
    return _of(registry.load_models(str(folder / id), "fake", "cpu", mode=mode).generator.info)  # type: ignore[arg-type]


def _generator(pipe: Any, name: str, id: str, mode: str) -> Any:
    from models.generators.gate.generator import PipelineGate
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    family = FAMILIES[name]
    kind: Any = NativeGenerator if mode == "native" else PipelineGate
    sides = {"width": family.size, "height": family.size}
    return kind(pipe, select_device("cpu"), id=id, arguments=dict(family.arguments), defaults=sides)


def _of(info: Any) -> tuple[Any, ...]:
    return info.steps, info.guidance_scale, info.sampler, info.defaults_from, info.width, info.height


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.soak] * (case == "sdxl-turbo-large")) for case in CASES]
)
def test_both_paths_have_the_same_defaults(case: str, tmp_path: Path) -> None:
    name, _, _, wanted = CASES[case]
    found = {mode: described(case, tmp_path / mode, mode) for mode in FAMILIES[name].paths}
    assert set(found) == ({"gate"} if name == "sana_sprint" else {"gate", "native"})
    assert len(set(found.values())) == 1, found
    assert found["gate"][:4] == wanted


def test_every_rule_has_a_case() -> None:
    names = {id.lower() for _, id, _, _ in CASES.values()}
    assert all(any(word in name for name in names) for word in _FEW_STEPS)
    tried = {FAMILIES[name].pipeline for name, _, _, _ in CASES.values()}
    assert set(_DISTILLED) <= tried
