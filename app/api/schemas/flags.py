"""Flags of guards in responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from app.api.schemas.base import ResponseModel
from app.domain import Flag

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
