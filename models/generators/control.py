"""ControlNets: which pipelines of diffusers take them, and how they are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers

from models.errors import ModelNotFound, ModelUnsupported
from models.runtime.placement import FILE_ERRORS, DevicePlacement, quiet_libraries

CONTROLLED: Mapping[str, tuple[str, str]] = {
    "StableDiffusionPipeline": ("StableDiffusionControlNetPipeline", "ControlNetModel"),
    "StableDiffusionXLPipeline": ("StableDiffusionXLControlNetPipeline", "ControlNetModel"),
    "FluxPipeline": ("FluxControlNetPipeline", "FluxControlNetModel"),
    "StableDiffusion3Pipeline": ("StableDiffusion3ControlNetPipeline", "SD3ControlNetModel"),
    "QwenImagePipeline": ("QwenImageControlNetPipeline", "QwenImageControlNetModel"),
}
"""Pipeline with control and class of the ControlNet, by pipeline class."""


def load_nets(named: Mapping[str, str], pipe: Any, placement: DevicePlacement) -> dict[str, Any]:
    """ControlNets by kind, from folders or hub ids, on the device.

    Raises ModelUnsupported for a pipeline without control and for a ControlNet of another family, and ModelNotFound.
    """
    if not named:
        return {}
    kind = type(pipe).__name__
    if kind not in CONTROLLED:
        known = ", ".join(sorted(CONTROLLED))
        raise ModelUnsupported(f"the pipeline {kind} takes no ControlNet; unset FRONTRUNNER_CONTROLS or use {known}")
    return {name: _load(name, source, CONTROLLED[kind][1], placement) for name, source in named.items()}


def controlled(pipe: Any, nets: Sequence[Any]) -> Any:
    """The pipeline with control that has the parts of this one.

    Raises ModelUnsupported.
    """
    known = getattr(diffusers, CONTROLLED[type(pipe).__name__][0])
    taken = inspect.signature(known.__init__).parameters
    parts = {name: part for name, part in pipe.components.items() if name in taken}
    net = nets[0] if len(nets) == 1 else list(nets)
    options = {name: False for name in ("requires_safety_checker", "add_watermarker") if name in taken}
    try:
        with quiet_libraries():
            made = known(**parts, controlnet=net, **options)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelUnsupported(f"the ControlNet does not fit the pipeline ({type(error).__name__})") from error
    made.set_progress_bar_config(disable=True)
    return made


def _load(kind: str, source: str, known: str, placement: DevicePlacement) -> Any:
    label = Path(source).name if Path(source).is_dir() else source
    try:
        with quiet_libraries():
            config = getattr(diffusers, known).load_config(source, local_files_only=Path(source).is_dir())
            if config.get("_class_name", known) != known:
                raise ModelUnsupported(
                    f"control {kind!r}: {label!r} is of class {config['_class_name']}; the pipeline takes {known}"
                )
            net = getattr(diffusers, known).from_pretrained(
                source, local_files_only=Path(source).is_dir(), dtype=placement.dtype
            )
    except FILE_ERRORS as error:
        raise ModelNotFound(f"control {kind!r}: no ControlNet at {label!r}; name a folder or a hub id") from error
    if net.config.get("num_mode") or net.config.get("union"):
        raise ModelUnsupported(f"control {kind!r}: {label!r} joins several kinds; use one ControlNet for each kind")
    return net.to(placement.device).eval().requires_grad_(False)
