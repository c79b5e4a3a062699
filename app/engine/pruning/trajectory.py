"""The trace of one prompt's field, from which calibrations are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The unpruned field of one prompt.

    `previews` and `guidance_gaps` (steps, N) after every step, `finals` (N,). For a preview head also `embeddings`
    float16 (steps, N, D) of the previews, the last of which are those of the finals, and `prompt` float32 (D,).
    """

    previews: Array
    guidance_gaps: Array
    finals: Array
    embeddings: NDArray[np.float16] | None = None
    prompt: NDArray[np.float32] | None = None
