"""Facts from a pipeline's class, call and name: size, steps, scheduler.

The gate and the native loops describe a model by the same facts. Nothing is run here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from models.protocols import DefaultsSource

_SIZE = 1024

_UNET_STEPS = 30
"""Default steps of Stable Diffusion and SDXL.

Their pipelines' own 50 are from the time of slower samplers.
"""

_CONSISTENCY = 4, 8.5
"""Steps and guidance of a consistency model with a UNet.

It takes the guidance scale as an input.
"""

_CONSISTENCY_SAMPLER = 4, 1.0
"""The same of a model without that input."""

_CONSISTENCY_SCHEDULERS = ("LCMScheduler", "TCDScheduler")

_ADVERSARIAL = 1, 0.0
"""Steps and guidance of SD-Turbo and SDXL-Turbo."""

_TURBO_MERGE = 6, 2.0
"""The same of other models with a UNet and `turbo` in their names.

They are merges, made with 4 to 8 steps.
"""

_TURBO_CELLS = 64
"""Most latent cells in a row of SDXL-Turbo; SDXL has 128."""

_FEW_STEPS = {"schnell": (4, 0.0), "turbo": (8, 0.0), "klein": (4, 1.0), "lightning": (4, 1.0), "sprint": (2, 4.5)}
"""Steps and guidance of distilled models, by a word in their names.

Their folders do not hold these values.
"""


_DISTILLED = {"Flux2KleinPipeline": "klein", "Krea2Pipeline": "turbo"}
"""Words for the distilled models of classes whose folders tell distilled ones."""


class Usual(NamedTuple):
    """Default steps and guidance of a model."""

    steps: int
    guidance: float
    source: DefaultsSource


def usual_steps(id: str, pipe: Any, steps: int, guidance: float, defaults: Mapping[str, Any]) -> Usual:
    """Default steps and guidance of a model.

    `steps` and `guidance` are those of the pipeline's call. A pack's `defaults` may name others.
    """
    known = few_steps(id, pipe)
    if known is None:
        known = Usual(_UNET_STEPS if _has_unet(pipe) else steps, guidance, "pipeline")
    source: DefaultsSource = "files" if {"steps", "guidance_scale"} & set(defaults) else known.source
    return Usual(int(defaults.get("steps", known[0])), float(defaults.get("guidance_scale", known[1])), source)


def few_steps(id: str, pipe: Any) -> Usual | None:
    """Steps and guidance of a distilled model; None for other models.

    What the model's files say counts before its name: FLUX.2-klein-base is not distilled, and an SDXL merge called
    Turbo is not SDXL-Turbo.
    """
    own = type(getattr(pipe, "scheduler", None)).__name__
    if _has_unet(pipe):
        if pipe.unet.config.get("time_cond_proj_dim") is not None:
            return Usual(*_CONSISTENCY, "files")
        if own in _CONSISTENCY_SCHEDULERS:
            return Usual(*_CONSISTENCY_SAMPLER, "files")
        if _is_adversarial(id, pipe):
            return Usual(*_ADVERSARIAL, "files")
        if "turbo" in id.lower():
            return Usual(*_TURBO_MERGE, "name")
    distilled = getattr(getattr(pipe, "config", None), "is_distilled", None)
    if distilled is False:
        return None
    name = id.lower() if distilled is None else f"{id.lower()} {_DISTILLED.get(type(pipe).__name__, '')}"
    found = next((few for word, few in _FEW_STEPS.items() if word in name), None)
    if found is not None:
        return Usual(*found, "name" if distilled is None else "files")
    return Usual(*_CONSISTENCY_SAMPLER, "files") if own in _CONSISTENCY_SCHEDULERS else None


def _is_adversarial(id: str, pipe: Any) -> bool:
    """Whether the files are those of SDXL-Turbo or SD-Turbo.

    Both space timesteps `trailing`. SDXL-Turbo has half the size of SDXL, which nothing else has. SD-Turbo looks like
    any Stable Diffusion of that spacing, so its name must say it too.
    """
    if getattr(pipe.scheduler, "config", {}).get("timestep_spacing") != "trailing":
        return False
    if getattr(pipe, "text_encoder_2", None) is None:
        return "turbo" in id.lower()
    cells = pipe.unet.config.get("sample_size")
    return isinstance(cells, int) and cells <= _TURBO_CELLS


def _has_unet(pipe: Any) -> bool:
    """Whether it is Stable Diffusion or SDXL, in any of their pipelines."""
    return getattr(pipe, "unet", None) is not None and getattr(pipe, "text_encoder", None) is not None


def call_defaults(pipe: Any) -> dict[str, Any]:
    """The default arguments of a standard pipeline's `__call__`."""
    parameters = inspect.signature(pipe.__call__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def default_size(pipe: Any, defaults: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height in pixels that the pipeline makes without a requested size.

    `defaults` are those of its call.
    """
    if isinstance(defaults.get("width"), int) and isinstance(defaults.get("height"), int):
        return defaults["width"], defaults["height"]
    width, height = (getattr(pipe, name, None) for name in ("default_width", "default_height"))
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    sample = getattr(pipe, "default_sample_size", None)
    if sample is None:
        denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        sample = getattr(getattr(denoiser, "config", None), "sample_size", None)
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    if sample is None:
        return _SIZE, _SIZE
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return int(width) * factor, int(height) * factor


def scheduler_name(scheduler: Any) -> str:
    """The name on the wire of a scheduler's sampler.

    A class without a usual name is named after itself: `FlowMatchEulerDiscreteScheduler` is `flow_match_euler`.
    """
    own = type(scheduler).__name__
    if own == "DPMSolverMultistepScheduler":
        kinds = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}
        return kinds.get(str(scheduler.config.get("algorithm_type")), "dpm_solver")
    if own == "UniPCMultistepScheduler":
        return "unipc"
    bare = own.removesuffix("Scheduler").removesuffix("Discrete").removesuffix("Multistep")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", bare).lower()
