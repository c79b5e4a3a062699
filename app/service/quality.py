"""`quality`: one knob over the number of candidates and steps.

It replaces the defaults of fields that a request omits; explicit fields win.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from app.service.types import Limits
from models.protocols import GeneratorInfo

Quality: TypeAlias = Literal["draft", "standard", "best"]

CANDIDATES: dict[Quality, float] = {"draft": 0.25, "standard": 1.0, "best": 4.0}
"""Candidates, relative to the server's default."""

FEW_STEPS = 4
"""Drafts of models of so few steps keep them: such models are distilled."""


@dataclass(frozen=True, slots=True)
class QualityDefaults:
    """Defaults that a quality stands for, before `n` and the quota."""

    n_candidates: int
    steps: int


def quality_defaults(quality: Quality | None, generator: GeneratorInfo, limits: Limits) -> QualityDefaults:
    """Return the defaults of a quality; None is the standard."""
    candidates = max(1, round(limits.default_candidates * CANDIDATES[quality or "standard"]))
    steps = generator.steps
    if quality == "draft" and steps > FEW_STEPS:
        steps = math.ceil(steps / 2)
    return QualityDefaults(min(candidates, limits.candidates), steps)


def all_qualities(generator: GeneratorInfo, limits: Limits) -> dict[Quality, QualityDefaults]:
    """Return what each quality means for the loaded generator."""
    return {name: quality_defaults(name, generator, limits) for name in get_args(Quality)}
