"""ControlNets: which pipelines of diffusers take them, and how they are loaded.

A union is a ControlNet for several kinds of images; a mode, a number, selects the kind.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers

from models.errors import ModelNotFound, ModelUnsupported
from models.runtime.load_errors import check_complete
from models.runtime.placement import FILE_ERRORS, DevicePlacement, quiet_libraries

CONTROLLED: Mapping[str, tuple[str, str]] = {
    "StableDiffusionPipeline": ("StableDiffusionControlNetPipeline", "ControlNetModel"),
    "StableDiffusionXLPipeline": ("StableDiffusionXLControlNetPipeline", "ControlNetModel"),
    "FluxPipeline": ("FluxControlNetPipeline", "FluxControlNetModel"),
    "StableDiffusion3Pipeline": ("StableDiffusion3ControlNetPipeline", "SD3ControlNetModel"),
    "QwenImagePipeline": ("QwenImageControlNetPipeline", "QwenImageControlNetModel"),
}
"""Pipeline with control and class of the ControlNet, by pipeline class."""

UNIONS: Mapping[str, tuple[str, str]] = {
    "StableDiffusionXLPipeline": ("StableDiffusionXLControlNetUnionPipeline", "ControlNetUnionModel"),
}
"""The same where diffusers has classes of their own for unions."""

UNION = "union"
"""In the settings: all kinds of a union."""

MODES: Mapping[str, tuple[str, ...]] = {
    "ControlNetUnionModel": ("pose", "depth", "sketch", "canny", "normal", "segment", "tile"),
    "FluxControlNetModel": ("canny", "tile", "depth", "blur", "pose", "gray", "low_quality"),
}
"""Kinds of a union by mode, as its publishers number them.

The files do not hold the names. Sources: the model cards of xinsir/controlnet-union-sdxl-1.0, whose last mode needs a
mask, and of InstantX/FLUX.1-dev-Controlnet-Union.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """A loaded ControlNet for one kind of images; `mode` selects the kind of a union."""

    model: Any
    mode: int | None = None


def load_nets(named: Mapping[str, str], pipe: Any, placement: DevicePlacement) -> dict[str, Net]:
    """ControlNets by kind, from folders or hub ids, on the device.

    Each source is loaded once. The entry `union` stands for all kinds of a union.
    Raises ModelUnsupported for a pipeline without control and for a ControlNet of another family, and ModelNotFound.
    """
    if not named:
        return {}
    kind = type(pipe).__name__
    if kind not in CONTROLLED:
        known = ", ".join(sorted(CONTROLLED))
        raise ModelUnsupported(f"the pipeline {kind} takes no ControlNet; unset FRONTRUNNER_CONTROLS or use {known}")
    loaded: dict[str, Any] = {}
    nets: dict[str, Net] = {}
    for name, source in named.items():
        if source not in loaded:
            loaded[source] = _load(name, source, _classes(kind), placement)
        for each, net in _kinds(name, loaded[source]).items():
            if each in nets:
                raise ModelUnsupported(f"control {each!r} is named twice; a union offers it too: name one of them")
            nets[each] = net
    if len({_is_separate(net.model) for net in nets.values()}) > 1:
        raise ModelUnsupported("ControlNets of SDXL are either unions or not; name only unions, or none")
    return nets


def controlled(pipe: Any, nets: Sequence[Net]) -> Any:
    """The pipeline with control that has the parts of this one.

    Several kinds of one union are one ControlNet, which joins them. Raises ModelUnsupported.
    """
    table = UNIONS if _is_separate(nets[0].model) else CONTROLLED
    known = getattr(diffusers, table[type(pipe).__name__][0])
    taken = inspect.signature(known.__init__).parameters
    parts = {name: part for name, part in pipe.components.items() if name in taken}
    models = [net.model for net in nets]
    joined = len(models) == 1 or (table is UNIONS and all(each is models[0] for each in models))
    options = {name: False for name in ("requires_safety_checker", "add_watermarker") if name in taken}
    try:
        with quiet_libraries():
            made = known(**parts, controlnet=models[0] if joined else models, **options)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelUnsupported(f"the ControlNet does not fit the pipeline ({type(error).__name__})") from error
    made.set_progress_bar_config(disable=True)
    return made


def modes(nets: Sequence[Net]) -> list[int | None]:
    """The modes of ControlNets, in order."""
    return [net.mode for net in nets]


def _classes(kind: str) -> tuple[str, ...]:
    """Classes of ControlNets that a pipeline takes, the usual one first."""
    return tuple(table[kind][1] for table in (CONTROLLED, UNIONS) if kind in table)


def _is_separate(model: Any) -> bool:
    return type(model).__name__ in {known for _, known in UNIONS.values()}


def _load(kind: str, source: str, known: tuple[str, ...], placement: DevicePlacement) -> Any:
    label, local = Path(source).name if Path(source).is_dir() else source, Path(source).is_dir()
    try:
        with quiet_libraries():
            config = getattr(diffusers, known[0]).load_config(source, local_files_only=local)
            found = config.get("_class_name", known[0])
            if found not in known:
                raise ModelUnsupported(
                    f"control {kind!r}: {label!r} is of class {found}; the pipeline takes {' or '.join(known)}"
                )
            net = getattr(diffusers, found).from_pretrained(source, local_files_only=local, dtype=placement.dtype)
    except FILE_ERRORS as error:
        raise ModelNotFound(f"control {kind!r}: no ControlNet at {label!r}; name a folder or a hub id") from error
    check_complete({f"ControlNet {label!r} of control {kind!r}": net}, [])
    return net.to(placement.device).eval().requires_grad_(False)


def _kinds(name: str, model: Any) -> dict[str, Net]:
    """The kinds that an entry of the settings offers."""
    count = model.config.get("num_mode") or model.config.get("num_control_type")
    if not count:
        return {name: Net(model)}
    known = MODES[type(model).__name__][:count]
    if name == UNION:
        return {each: Net(model, mode) for mode, each in enumerate(known)}
    if name not in known:
        raise ModelUnsupported(
            f"control {name!r}: the ControlNet joins the kinds {', '.join(known)}; name it {UNION} for all of them, "
            "or one of these"
        )
    return {name: Net(model, known.index(name))}
