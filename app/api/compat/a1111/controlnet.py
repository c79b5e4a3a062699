"""ControlNet units of a web UI's requests as control images.

The members are those of the web UI's extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.compat.a1111.types import ANY, MAX_NAME, Number, ProcessingRequest
from app.api.dependencies import Services
from app.api.ranking_inputs import with_controls
from app.api.schemas.base import Between
from app.api.schemas.messages import message
from app.api.schemas.requests import ControlInput
from app.domain import Notice
from app.errors import FrontrunnerError, InvalidRequest
from app.service import GenerationParams

SCRIPT = "controlnet"
"""The extension's name in `alwayson_scripts`, in any case."""

MAX_UNITS = 4
"""Maximum enabled units of a request."""

_POINTER = f"#/alwayson_scripts/{SCRIPT}/args"
_NONE = ("", "none")
_SYNONYMS = {"openpose": "pose", "scribble": "sketch"}
_IMAGES = ("image", "input_image", "mask", "mask_image")

_MEMBERS: Mapping[str, Any] = {
    "mask": (None, ""),
    "mask_image": (None, ""),
    "effective_region_mask": (None, ""),
    "control_mode": (0, "Balanced"),
    "guessmode": (False, 0),
    "guidance": (1,),
    "guidance_start": (0,),
    "guidance_end": (1,),
    "union_control_type": ("Unknown",),
    "input_mode": ("simple",),
    "ipadapter_input": (None, ""),
    **dict.fromkeys(("resize_mode", "processor_res", "threshold_a", "threshold_b", "pixel_perfect"), ANY),
    **dict.fromkeys(("lowvram", "low_vram", "hr_option", "save_detected_map", "is_ui", "batch_images"), ANY),
    **dict.fromkeys(("inpaint_crop_input_image", "animatediff_batch", "advanced_weighting", "pulid_mode"), ANY),
}
"""Members without effect, and the values that request no effect.

`resize_mode` is among them: images are cropped to the ratio and scaled. Without a preprocessor its options are unused.
"""


class ControlUnit(BaseModel):
    """A unit of the extension."""

    model_config = ConfigDict(extra="allow", strict=True)

    enabled: bool | None = True
    module: str | None = Field("none", max_length=200)
    model: str | None = Field("None", max_length=300)
    weight: Annotated[Number, Between(0, 2)] | None = 1.0
    image: str | dict[str, Any] | None = None
    input_image: str | None = None

    @property
    def picture(self) -> str | None:
        """The control image; None without one."""
        image = self.image.get("image") if isinstance(self.image, dict) else self.image
        found = image or self.input_image
        return found if isinstance(found, str) and found else None


@dataclass(frozen=True, slots=True)
class _Placed:
    """An enabled unit and its place in the request."""

    place: int
    unit: ControlUnit


async def with_units(
    request: Request,
    services: Services,
    params: GenerationParams,
    body: ProcessingRequest,
    initial: str | None = None,
) -> GenerationParams:
    """`params` with the control images of the request's enabled units.

    Units without an image take `initial`, as in the web UI. Raises InvalidRequest for a unit that cannot be applied.
    """
    units = _enabled(body)
    if not units:
        return params
    kinds = services.generations.models()[0].controls
    controls = [_control(each, kinds, initial) for each in units]
    with _placed_pointers(units):
        params = await with_controls(request, services, params, controls)
    return replace(params, notices=(*params.notices, *(notice for each in units for notice in _ignored(each))))


def is_controlnet(name: str) -> bool:
    """Whether a name in `alwayson_scripts` is the extension's."""
    return name.lower() == SCRIPT


def without_images(scripts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Scripts as a response repeats them: without the units' images."""
    return {
        name: {**script, "args": [_without_images(each) for each in script["args"]]}
        if is_controlnet(name) and isinstance(script, dict) and isinstance(script.get("args"), list)
        else script
        for name, script in (scripts or {}).items()
    }


def _without_images(unit: Any) -> Any:
    return {key: value for key, value in unit.items() if key not in _IMAGES} if isinstance(unit, dict) else unit


def _enabled(body: ProcessingRequest) -> list[_Placed]:
    """The enabled units, in order.

    Raises InvalidRequest for anything else in their place.
    """
    found = []
    for name, script in (body.alwayson_scripts or {}).items():
        if not is_controlnet(name):
            continue
        args = script.get("args") if isinstance(script, dict) else script
        if args is not None and not isinstance(args, list):
            raise InvalidRequest("send the units as a list in `args`", pointer=_POINTER)
        found += [_unit(place, arg) for place, arg in enumerate(args or ()) if not isinstance(arg, bool)]
    enabled = [each for each in found if each.unit.enabled is not False]
    if len(enabled) > MAX_UNITS:
        raise InvalidRequest(f"{len(enabled)} units are enabled: send at most {MAX_UNITS}", pointer=_POINTER)
    return enabled


def _unit(place: int, arg: Any) -> _Placed:
    try:
        return _Placed(place, ControlUnit.model_validate(arg))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        member = "".join(f"/{part}" for part in first["loc"][:1])
        raise InvalidRequest(message(first), pointer=f"{_POINTER}/{place}{member}") from None


def _control(placed: _Placed, kinds: Sequence[str], initial: str | None) -> ControlInput:
    unit, pointer = placed.unit, f"{_POINTER}/{placed.place}"
    if (unit.module or "").lower() not in _NONE:
        raise InvalidRequest(
            f"preprocessor {str(unit.module)[:64]!r} not found: send the prepared image, with the module none",
            pointer=f"{pointer}/module",
        )
    kind = _kind(unit.model or "", kinds)
    if kind is None:
        choice = f"use one of {', '.join(kinds)}" if kinds else "the loaded model has none, omit the unit"
        raise InvalidRequest(f"ControlNet {str(unit.model)[:100]!r} not found: {choice}", pointer=f"{pointer}/model")
    image = unit.picture or initial
    if image is None:
        raise InvalidRequest("the unit has no image: send one, or disable the unit", pointer=f"{pointer}/image")
    return ControlInput(kind=kind, image=image, weight=1.0 if unit.weight is None else unit.weight)


def _kind(title: str, kinds: Sequence[str]) -> str | None:
    """The kind that a model's title names.

    `canny` is named by `canny` and by `control_v11p_sd15_canny [d14c016b]`. None if the title names no kind, or
    several.
    """
    name = title.partition(" [")[0].strip().lower()
    if name in kinds:
        return name
    words = [_SYNONYMS.get(word, word) for word in re.findall(r"[a-z0-9]+", name)]
    named = [kind for kind in kinds if _contains(words, re.findall(r"[a-z0-9]+", kind))]
    return named[0] if len(named) == 1 else None


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[at : at + len(part)]) == list(part) for at in range(len(words) - len(part) + 1))


def _ignored(placed: _Placed) -> Iterator[Notice]:
    """Notices on a unit's members without effect."""
    sent = placed.unit.model_extra or {}
    if isinstance(placed.unit.image, dict):
        sent = {**{key: value for key, value in placed.unit.image.items() if key != "image"}, **sent}
    for name, value in _shown(sent.items()):
        where = f"alwayson_scripts.{SCRIPT}.args.{placed.place}.{name}"
        if name not in _MEMBERS:
            yield Notice("unknown_parameter", f"`{where}` is unknown and was ignored", {"param": where})
        elif _MEMBERS[name] is not ANY and value is not None and value not in _MEMBERS[name]:
            yield Notice("unsupported_parameter", f"`{where}` has no effect: omit it", {"param": where})


def _shown(members: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for _, (name, value) in zip(range(MAX_NAME), members, strict=False):
        yield name.encode("ascii", "replace").decode("ascii")[:MAX_NAME], value


@contextmanager
def _placed_pointers(units: Sequence[_Placed]) -> Iterator[None]:
    """Make errors of control images point at units."""
    try:
        yield
    except FrontrunnerError as error:
        found = re.fullmatch(r"#/control(?:/(\d+)/(\w+))?", error.pointer or "")
        if found is not None:
            place = f"/{units[int(found[1])].place}/{found[2]}" if found[1] else ""
            error.pointer = f"{_POINTER}{place}"
        raise
