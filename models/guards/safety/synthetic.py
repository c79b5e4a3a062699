"""A safety classifier in NumPy: flags images that are red in the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols.safety import SafetyInfo


class FakeClassifier:
    """One score, `red`: the share of red in the mean colour, from 0 to 1."""

    def __init__(self, threshold: float | None = None) -> None:
        self._info = SafetyInfo("fake", "1", 0.5 if threshold is None else threshold)

    @property
    def info(self) -> SafetyInfo:
        """See `SafetyClassifier`."""
        return self._info

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """See `SafetyClassifier`."""
        means = [image.reshape(-1, 3).mean(axis=0) for image in images]
        return [{"red": float(mean[0] / max(1e-9, float(mean.sum())))} for mean in means]
