"""Guards: what they find in images, and their limits. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ARTEFACT = "artefact"
"""Flag of an image whose statistics are outside the usual range of its generator."""

TYPOGRAPHIC = "typographic"
"""Flag of an image with words of the prompt that the prompt does not quote."""

GUARDS = (ARTEFACT, TYPOGRAPHIC)
"""Names of all guards, which are also the names of their flags."""

MIN_CONTRAST = 2.0
"""Smallest contrast of an image that is not blank, in levels of 255."""


@dataclass(frozen=True, slots=True)
class ArtefactLimits:
    """Limits of an image's statistics; None is not checked.

    `contrast` is a minimum, the others are maxima. The units are those of `models.guards.artefacts.Statistics`.
    """

    contrast: float = MIN_CONTRAST
    saturation: float | None = None
    noise: float | None = None
    tiling: float | None = None


@dataclass(frozen=True, slots=True)
class TextInImage:
    """A legible text: its `confidence` in [0, 1] and `box` (left, top, right, bottom).

    The box is in pixels; right and bottom are exclusive.
    """

    text: str
    confidence: float
    box: tuple[int, int, int, int]


class TextReader(Protocol):
    """Reads text in images. Thread-safe."""

    def read(self, image: NDArray[np.uint8]) -> tuple[TextInImage, ...]:
        """Texts in an image (H, W, 3), from most to least legible."""
        ...
