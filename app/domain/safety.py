"""Safety: what is done about flagged images, and what a classifier found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Safety(StrEnum):
    """What a safety classifier does to a generation, from least to most strict.

    `off`: it does not run. `flag`: answers say what it found. `veto`: flagged images are not ranked and not served.
    """

    OFF = "off"
    FLAG = "flag"
    VETO = "veto"


def strictest(*modes: Safety) -> Safety:
    """The strictest of these modes."""
    return max(modes, key=list(Safety).index)


@dataclass(frozen=True, slots=True)
class SafetyVerdict:
    """What a classifier found in an image.

    `scores` by name: higher is worse, None is not a number. Without scores the classifier failed. Both are `flagged`.
    """

    flagged: bool
    scores: Mapping[str, float | None]
    model: str
    revision: str
