"""Facts from a pipeline's class, call and name: size, steps, scheduler.

The gate and the native loops describe a model by the same facts. Nothing is run here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

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

_UNET_TURBO = 1, 0.0
"""Steps and guidance of SD-Turbo and SDXL-Turbo."""

_FEW_STEPS = {"schnell": (4, 0.0), "turbo": (8, 0.0), "klein": (4, 1.0), "lightning": (4, 1.0), "sprint": (2, 4.5)}
"""Steps and guidance of distilled models, by a word in their names.

Their folders do not hold these values.
"""


_DISTILLED = {"Flux2KleinPipeline": "klein", "Krea2Pipeline": "turbo"}
"""Words for the distilled models of classes whose folders tell distilled ones."""


def usual_steps(id: str, pipe: Any, steps: int, guidance: float) -> tuple[int, float]:
    """Default steps and guidance of a model.

    `steps` and `guidance` are those of the pipeline's call.
    """
    known = few_steps(id, pipe)
    if known is None and _has_unet(pipe):
        return _UNET_STEPS, guidance
    return known or (steps, guidance)


def few_steps(id: str, pipe: Any) -> tuple[int, float] | None:
    """Steps and guidance of a distilled model of this name; None for other models.

    What the pipeline's folder says about it counts before the name: FLUX.2-klein-base is not distilled.
    """
    if _has_unet(pipe):
        if "turbo" in id.lower():
            return _UNET_TURBO
        if pipe.unet.config.get("time_cond_proj_dim") is not None:
            return _CONSISTENCY
    distilled = getattr(getattr(pipe, "config", None), "is_distilled", None)
    if distilled is False:
        return None
    name = id.lower() if distilled is None else f"{id.lower()} {_DISTILLED.get(type(pipe).__name__, '')}"
    found = next((few for word, few in _FEW_STEPS.items() if word in name), None)
    own = type(getattr(pipe, "scheduler", None)).__name__
    return _CONSISTENCY_SAMPLER if found is None and own in _CONSISTENCY_SCHEDULERS else found


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
