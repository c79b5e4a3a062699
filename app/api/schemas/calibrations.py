"""How answers describe calibrations."""

from __future__ import annotations

from app.api.schemas.base import ResponseModel


class ArtefactLimitsOutput(ResponseModel):
    """Limits of the artefact guard: a minimum of contrast, and maxima.

    null is not checked.
    """

    contrast: float
    saturation: float | None
    noise: float | None
    tiling: float | None


class PreviewHeadOutput(ResponseModel):
    """A small model of embeddings that predicts final scores from previews.

    `used` says after which steps. There its error is lower than the linear fit's, on prompts that were not fitted.
    """

    used: list[bool]
    linear_error: list[float]
    head_error: list[float]


class MatchOutput(ResponseModel):
    """How a cosine becomes the probability that an image shows a text.

    sigmoid(slope * cosine + intercept), where half of all pairs match. `error` is the expected calibration error on
    `pairs` held-out pairs, and `reliability` its table: mean probability, share that matches, weight. `noise` is the
    standard deviation of a cosine over changes that do not change what an image shows.
    """

    slope: float
    intercept: float
    noise: float
    error: float
    pairs: int
    reliability: list[tuple[float, float, float]]


class ReplayOutput(ResponseModel):
    """What pruning plans kept of the best-of-N gain.

    They were replayed on prompts that they were not made from, for the best of `candidates` at `quality`. `kept` is the
    mean share kept, with its standard error `kept_error`. `loss_ratio`, with its standard error, is the real loss
    relative to the modelled one. Plans assume an upper limit of it, between 1 and 3.
    """

    candidates: int
    prompts: int
    quality: float
    kept: float
    kept_error: float
    loss_ratio: float
    loss_ratio_error: float


class CalibrationOutput(ResponseModel):
    """How well previews after each step predict the ranking of final images.

    Valid only for the revisions, sampler, steps and guidance scale it names. `match` is the probability of a match.
    `replay` is what plans really keep.
    """

    generator: str
    scorer: str
    sampler: str
    steps: int
    guidance_scale: float
    spearman: list[float]
    correlation: list[float]
    preview_weight: list[float]
    gap_weight: list[float]
    artefacts: ArtefactLimitsOutput | None
    head: PreviewHeadOutput | None
    match: MatchOutput | None
    replay: ReplayOutput | None
