"""Flags of guards and of safety classifiers, and the field `safety`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from app.api.schemas.base import ResponseModel
from app.domain import Flag, SafetyVerdict

FlagName: TypeAlias = Literal["artefact", "typographic"]


class FlagsOutput(ResponseModel):
    """What guards found: names of flags, and the reasons of each.

    `artefact` has reasons such as noisy or blank; `typographic` has the words of the prompt that stand in the image.
    """

    flags: list[FlagName]
    flag_reasons: dict[str, list[str]]


def flag_fields(flags: Sequence[Flag]) -> dict[str, Any]:
    """Fields of `FlagsOutput`."""
    return {"flags": [f.guard for f in flags], "flag_reasons": {f.guard: list(f.reasons) for f in flags}}


SafetyInput: TypeAlias = Literal["off", "flag", "veto"]
"""What a safety classifier does: nothing, flag images, or also withhold them."""

SAFETY = "flag marks images that a classifier flags, veto also withholds them. Default: the server's. No guarantee."


class SafetyOutput(ResponseModel):
    """What the safety classifier found in an image; it is no guarantee.

    `scores` by name: higher is worse, null is not a number. Without scores the classifier failed. Both count as
    flagged.
    """

    flagged: bool
    scores: dict[str, float | None]
    model: str
    revision: str


def safety_output(verdict: SafetyVerdict | None) -> SafetyOutput | None:
    """Convert from the domain."""
    return None if verdict is None else SafetyOutput.model_validate(verdict, from_attributes=True)
