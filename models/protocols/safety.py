"""Safety classifiers: what they say of images. No torch.

A classifier errs in both directions. Its answer is no guarantee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SafetyInfo:
    """A classifier: its name, the revision of its weights, and its threshold.

    An image is flagged if one of its scores is above the threshold, or is not a number.
    """

    id: str
    revision: str
    threshold: float


class SafetyClassifier(Protocol):
    """Scores images by what they may show. Called by one thread at a time."""

    @property
    def info(self) -> SafetyInfo:
        """Name and traits; constant."""
        ...

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """Scores by name of host images (H, W, 3) of any sizes, in order; higher is worse."""
        ...
