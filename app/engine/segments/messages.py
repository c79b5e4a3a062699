"""Messages between a coordinator and the workers that run segments.

Plain dataclasses of numbers, texts and NumPy arrays. A worker needs nothing else to run a segment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec, Notice, Score, Timings, Work
from app.engine.ranking.scoring import Query
from models.protocols.image_inputs import ImageInputs
from models.protocols.portable import LatentState


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRow:
    """A candidate of a segment.

    Without `state`, it continues from the latent that the worker kept, or is made again from its seed.
    """

    index: int
    state: LatentState | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows of one generation that have made `step` steps.

    It ends at the next checkpoint or the last step. `id` is of one attempt. `spec` and `inputs` are those of the whole
    generation.
    """

    id: str
    spec: GenerationSpec
    step: int
    rows: tuple[SegmentRow, ...]
    inputs: ImageInputs | None = None

    @property
    def stop(self) -> int:
        """The step at which the segment ends."""
        return next_stop(self.spec, self.step)


def next_stop(spec: GenerationSpec, step: int) -> int:
    """The first checkpoint after `step`, or the last step."""
    return min((c.at for c in spec.checkpoints if c.at > step), default=spec.steps_made)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Latents of all rows of a segment after `step`.

    Another worker can continue from them. `work` and `device_seconds` led to them from the segment's first step.
    """

    step: int
    states: Mapping[int, LatentState]
    work: Work
    device_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class RowResult:
    """A candidate at the end of a segment: previewed, or `finished`.

    `image` is uint8 (H, W, 3), `stored_latent` float16 (C, h, w). `predicted_score` is set by previews. `state` is None
    if finished, or if the generator keeps its latents. The other fields are those of `Row`.
    """

    index: int
    step: int
    finished: bool
    score: Score
    embedding: NDArray[np.float32]
    stored_latent: NDArray[np.float16]
    image: NDArray[np.uint8]
    guidance_gap: float = 0.0
    predicted_score: float = float("nan")
    members: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    state: LatentState | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SegmentDone:
    """The result of a segment.

    `calls_made` are the denoiser calls of an unpruned row of the generation. `device_seconds` is the segment's share
    of shared calls. `query`, `member_queries`, `notices` and `left_out` belong to the generation.
    """

    rows: tuple[RowResult, ...]
    query: Query
    member_queries: Mapping[str, Query]
    notices: tuple[Notice, ...]
    left_out: Mapping[str, str]
    calls_made: int
    device_seconds: float
    timings: Timings
    work: Work
