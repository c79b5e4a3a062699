"""Names of samplers and schedulers: those of web UIs, mapped to the model's.

Clients send names that their users once chose for another model. A name that web UIs know selects the nearest sampler
of the model, with a notice. An unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import Notice
from app.errors import InvalidRequest
from app.imaging import SAMPLER_NAMES
from models.protocols import GeneratorInfo

AUTOMATIC = "automatic"
"""The scheduler that leaves the noise schedule to the sampler."""

_ALIASES = {
    "euler": ("k_euler",),
    "euler_ancestral": ("k_euler_a", "k_euler_ancestral"),
    "dpmpp_2m": ("k_dpmpp_2m",),
    "heun": ("k_heun",),
}
_KNOWN = frozenset(
    name.lower()
    for name in (
        *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a"),
        *("Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++"),
        *("PLMS", "UniPC", "LCM", "DDPM", "Flow Match Euler", "Euler SMEA", "Euler CFG++", "Euler a CFG++", "TCD"),
    )
)
_SUFFIXES = ("karras", "exponential", "polyexponential", "sgm uniform")
_DEFAULTS = frozenset({"", AUTOMATIC, "none", "default", "use same scheduler", "use same sampler"})


@dataclass(frozen=True, slots=True)
class SamplerName:
    """A sampler of the model: its own name, its name in web UIs, and aliases."""

    own: str
    name: str
    aliases: tuple[str, ...]


def sampler_names(generator: GeneratorInfo) -> list[SamplerName]:
    """The model's samplers, with its default first."""
    ordered = sorted(generator.samplers, key=lambda own: own != generator.sampler)
    return [SamplerName(own, web_name(own), (own, *_ALIASES.get(own, ()))) for own in ordered]


def web_name(sampler: str) -> str:
    """Name of a sampler in web UIs."""
    return SAMPLER_NAMES.get(sampler, sampler)


def resolve_sampler(
    name: str | None, scheduler: str | None, generator: GeneratorInfo
) -> tuple[str | None, tuple[Notice, ...]]:
    """The model's sampler for a name and a scheduler; None is its default.

    Raises InvalidRequest for an unknown name.
    """
    wanted, schedule = (name or "").strip().lower(), (scheduler or "").strip().lower()
    schedule = "" if schedule in _DEFAULTS else schedule
    names = sampler_names(generator)
    exact = _find(wanted, names)
    base, implied = _split(wanted)
    schedule = schedule or ("" if exact else implied)
    found = exact or _find(base, names)
    if found is None and wanted not in _DEFAULTS and base not in _KNOWN:
        raise InvalidRequest(
            f"Sampler not found: use one of {', '.join(one.name for one in names)}", pointer="#/sampler_name"
        )
    used = found.own if found else generator.sampler
    notices = []
    if found is None and wanted not in _DEFAULTS:
        detail = f"the model does not have the sampler {name!r}: {web_name(used)!r} was used"
        notices.append(Notice("sampler_replaced", detail, {"param": "sampler_name", "sampler": used}))
    if schedule:
        detail = f"the sampler {web_name(used)!r} has no scheduler {schedule!r}: its own noise schedule was used"
        notices.append(Notice("scheduler_replaced", detail, {"param": "scheduler", "sampler": used}))
    return (None if used == generator.sampler else used), tuple(notices)


def _find(name: str, names: Sequence[SamplerName]) -> SamplerName | None:
    return next((one for one in names if name in {one.name.lower(), *one.aliases}), None)


def _split(name: str) -> tuple[str, str]:
    """A name without the scheduler that it ends with, and the scheduler."""
    for suffix in _SUFFIXES:
        if name.endswith(f" {suffix}"):
            return name.removesuffix(suffix).strip(), suffix
    return name, ""
