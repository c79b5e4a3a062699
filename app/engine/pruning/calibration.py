"""Calibration of previews: fits it from full runs, evaluates it at any step.

Pure functions. Steps of other schedules are matched by their share of the noise schedule's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.engine.pruning import preview_head
from app.engine.pruning.trajectory import Trajectory
from models.protocols import Calibration, Embeddings, GeneratorInfo, ScorerInfo, time_done

Array = NDArray[np.float64]

SATURATED_SHARE = 0.99
"""Cuts that keep this share of the best's lead do not distinguish correlations."""

SIMULATED_DRAWS = 4000
"""Simulated fields for the inversion from a kept gain to a correlation."""

RESAMPLES = 400
"""Bootstrap resamples of the prompts (Efron 1979) for each correlation."""

CONFIDENCE_QUANTILE = 0.25
"""Quantile of the resampled correlations that is used.

It is conservative, because a plan picks steps that look good partly by chance.
"""


def fit_calibration(trajectories: Sequence[Trajectory], generator: GeneratorInfo, scorer: ScorerInfo) -> Calibration:
    """Fit a calibration from traces with the generator's default sampler and guidance.

    Raises ValueError for fewer than two traces or different numbers of steps.
    """
    counts = {len(t.previews) for t in trajectories}
    if len(trajectories) < 2 or len(counts) != 1:
        raise ValueError("traces must come from at least two prompts and have equal numbers of steps")
    model = _gain_model(min(len(t.finals) for t in trajectories))
    fitted = preview_head.fit_head(trajectories)
    columns: dict[str, list[float]] = {"spearman": [], "correlation": [], "preview_weight": [], "gap_weight": []}
    for step in range(counts.pop()):
        if fitted is not None and fitted.head.used[step]:
            weights, predictions = fitted.weights[step], fitted.predictions[step]
        else:
            weights, predictions = _fit_linear(trajectories, step)
        fields = [(predicted, t.finals) for predicted, t in zip(predictions, trajectories, strict=True)]
        columns["spearman"].append(float(np.mean([_spearman(t.previews[step], t.finals) for t in trajectories])))
        columns["correlation"].append(model.correlation(fields))
        columns["preview_weight"].append(float(weights[0]))
        columns["gap_weight"].append(float(weights[1]))
    spearman, correlation, preview, gap = (tuple(round(v, 5) for v in values) for values in columns.values())
    of = (generator.revision, scorer.revision, generator.sampler, len(spearman), generator.guidance_scale)
    return Calibration(*of, spearman, correlation, preview, gap, head=None if fitted is None else fitted.head)


def _fit_linear(trajectories: Sequence[Trajectory], step: int) -> tuple[Array, tuple[Array, ...]]:
    """Return the weights of preview score and gap, and the predictions for each field."""
    parts = ([t.previews for t in trajectories], [t.guidance_gaps for t in trajectories])
    known = np.stack([np.concatenate([_centred(part[step]) for part in each]) for each in parts], axis=1)
    finals = np.concatenate([_centred(t.finals) for t in trajectories])
    weights = np.asarray(np.linalg.lstsq(known, finals, rcond=None)[0])
    return weights, tuple(weights[0] * t.previews[step] + weights[1] * t.guidance_gaps[step] for t in trajectories)


class _GainModel:
    """The planner's model of n normal scores, inverted: kept gain to correlation.

    Pearson's correlation is too optimistic: previews distinguish the best of a field, which matter for pruning, less
    well than the rest. The most likely value is too optimistic as well, because the planner selects steps that look
    better than they are.
    """

    def __init__(self, n: int) -> None:
        draw = np.random.default_rng(0)
        finals, noise = draw.standard_normal((2, SIMULATED_DRAWS, n))
        self._n = n
        self._keeps = sorted({1, *(max(1, n // part) for part in (8, 4, 2))})
        self._grid = np.linspace(0.0, 1.0, 101)
        simulated = [_leads(r * finals + np.sqrt(1 - r**2) * noise, finals).sum(axis=0) for r in self._grid]
        self._kept = np.stack([lead / lead[-1] for lead in simulated])

    def correlation(self, fields: Sequence[tuple[Array, Array]]) -> float:
        """Return the correlation implied by cuts of fields (predicted, final).

        It is the minimum over the cuts. A cut that kept nearly the whole gain is ignored, except the hardest one, to
        a single candidate. Fields without any lead give 0.
        """
        leads = _leads(*(np.stack([f[i][: self._n] for f in fields]) for i in (0, 1)))
        share = np.full(len(leads), 1 / len(leads))
        drawn = np.random.default_rng(0).multinomial(len(leads), share, RESAMPLES) @ leads
        kept = drawn / np.where(drawn[:, -1:] > 0, drawn[:, -1:], np.nan)
        implied = [self._implied_correlations(keep, kept[:, keep - 1]) for keep in self._keeps]
        return float(np.quantile(np.nan_to_num(np.min(implied, axis=0), nan=0.0), CONFIDENCE_QUANTILE))

    def _implied_correlations(self, keep: int, kept: Array) -> Array:
        """Return the correlations implied by cuts to `keep`, from the kept shares."""
        read = np.interp(kept, self._kept[:, keep - 1], self._grid)
        return read if keep == 1 else np.where(kept < SATURATED_SHARE, read, 1.0)


@lru_cache(maxsize=4)
def _gain_model(n: int) -> _GainModel:
    return _GainModel(n)


def _leads(predicted: Array, finals: Array) -> Array:
    """Return the best's lead over the mean among the first 1, 2, ... by prediction.

    Fields (F, n) -> (F, n).
    """
    ranked = np.take_along_axis(finals, np.argsort(-predicted, axis=1, kind="stable"), axis=1)
    return np.asarray(np.maximum.accumulate(ranked, axis=1) - finals.mean(axis=1, keepdims=True))


def predict_score(
    calibration: Calibration | None, preview: float, guidance_gap: float, sampler: str, step: int, steps: int
) -> float:
    """Return the final score predicted by a preview, up to a constant of the step.

    `preview` is the score of the preview's embedding, or of its `estimate_embedding`.
    """
    if calibration is None:
        return preview
    share = time_done(sampler, step / steps)
    return _interpolate(calibration, calibration.preview_weight, share) * preview + (
        _interpolate(calibration, calibration.gap_weight, share) * guidance_gap
    )


def estimate_embedding(
    calibration: Calibration | None, embedding: NDArray[np.float32], sampler: str, step: int, steps: int
) -> Embeddings | None:
    """Return the final embedding (1, D) estimated from a preview's (D,).

    None where the calibration uses no head.
    """
    if calibration is None or calibration.head is None:
        return None
    place = _interpolate(calibration, range(calibration.steps), time_done(sampler, step / steps))
    estimated = preview_head.estimate(calibration.head, round(place, 6), embedding)
    return None if estimated is None else estimated[None]


def correlations_by_step(calibration: Calibration, sampler: str, steps: int) -> tuple[float, ...]:
    """Return the correlation of previews after each of `steps`, never decreasing."""
    shares = (time_done(sampler, (i + 1) / steps) for i in range(steps))
    known = [_interpolate(calibration, (0.0, *calibration.correlation), share) for share in shares]
    return tuple(float(v) for v in np.maximum.accumulate(np.clip(known, 0.0, 0.9999)))


def _interpolate(calibration: Calibration, values: Sequence[float], share: float) -> float:
    """Interpolate `values` at a share of the schedule's time.

    `values` holds one value per step, optionally preceded by one for the start.
    """
    first = calibration.steps - len(values)
    places = [time_done(calibration.sampler, (i + 1) / calibration.steps) for i in range(first, calibration.steps)]
    return float(np.interp(share, places, values))


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean())


def _pearson(one: Array, two: Array) -> float:
    scale = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / scale if scale > 0 else 0.0


def _spearman(one: Array, two: Array) -> float:
    ranks = [_centred(np.argsort(np.argsort(v)).astype(np.float64)) for v in (one, two)]
    return _pearson(ranks[0], ranks[1])
