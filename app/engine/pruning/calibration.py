"""What previews are worth: fitting a calibration from whole runs, and reading it at any step of any schedule.

Pure functions. Steps of other schedules are matched by the share of the noise schedule's time that is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.protocols import Calibration, GeneratorInfo, ScorerInfo, time_done

Array = NDArray[np.float64]

SATURATED = 0.99
"""A cut that kept this share of the best's lead no longer tells one correlation from another."""

MODEL_DRAWS = 4000
"""Simulated fields from which a correlation is read back."""

RESAMPLES = 400
"""Times that the prompts are drawn anew, with repetition (Efron 1979), to see how far a correlation can be trusted."""

CAUTION = 0.25
"""The quantile of the resampled correlations that is kept: a plan picks steps that look good, some by luck."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One prompt's field, unpruned: `previews` and `gaps` (steps, N) after every step, `finals` (N,)."""

    previews: Array
    gaps: Array
    finals: Array


def fit(traces: Sequence[Trace], generator: GeneratorInfo, scorer: ScorerInfo) -> Calibration:
    """A calibration from traces of equal numbers of steps, by the generator's own sampler and guidance.

    Raises ValueError for fewer than two, or mixed steps.
    """
    counts = {len(t.previews) for t in traces}
    if len(traces) < 2 or len(counts) != 1:
        raise ValueError("a calibration needs at least two prompts with equal numbers of steps")
    finals = np.concatenate([_centred(t.finals) for t in traces])
    columns: dict[str, list[float]] = {"spearman": [], "correlation": [], "preview_weight": [], "gap_weight": []}
    model = _Model(min(len(t.finals) for t in traces))
    for step in range(counts.pop()):
        known = np.stack([np.concatenate([_centred(part[step]) for part in parts]) for parts in _parts(traces)], axis=1)
        weights = np.linalg.lstsq(known, finals, rcond=None)[0]
        fields = [(weights[0] * t.previews[step] + weights[1] * t.gaps[step], t.finals) for t in traces]
        columns["spearman"].append(float(np.mean([_spearman(t.previews[step], t.finals) for t in traces])))
        columns["correlation"].append(model.correlation(fields))
        columns["preview_weight"].append(float(weights[0]))
        columns["gap_weight"].append(float(weights[1]))
    spearman, correlation, preview, gap = (tuple(round(v, 5) for v in values) for values in columns.values())
    of = (generator.revision, scorer.revision, generator.sampler, len(spearman), generator.guidance_scale)
    return Calibration(*of, spearman, correlation, preview, gap)


class _Model:
    """The planner's model of a field of n normal scores, read backwards: from the gain a cut kept to a correlation.

    Pearson's correlation would promise too much: the best of a field, which pruning is about, are told apart less
    well than the rest. So would the likeliest value: the least work is found where a step looks better than it is.
    """

    def __init__(self, n: int) -> None:
        draw = np.random.default_rng(0)
        finals, noise = draw.standard_normal((2, MODEL_DRAWS, n))
        self._n = n
        self._keeps = sorted({1, *(max(1, n // part) for part in (8, 4, 2))})
        self._grid = np.linspace(0.0, 1.0, 101)
        simulated = [_leads(r * finals + np.sqrt(1 - r**2) * noise, finals).sum(axis=0) for r in self._grid]
        self._kept = np.stack([lead / lead[-1] for lead in simulated])

    def correlation(self, fields: Sequence[tuple[Array, Array]]) -> float:
        """What the cuts of these fields (foretold, final) speak for, with `CAUTION`.

        It is the least over the cuts. One that kept next to everything says nothing; the hardest, to a single one,
        always counts. Fields without any lead say that nothing is known.
        """
        leads = _leads(*(np.stack([f[i][: self._n] for f in fields]) for i in (0, 1)))
        share = np.full(len(leads), 1 / len(leads))
        drawn = np.random.default_rng(0).multinomial(len(leads), share, RESAMPLES) @ leads
        kept = drawn / np.where(drawn[:, -1:] > 0, drawn[:, -1:], np.nan)
        spoken = [self._spoken(keep, kept[:, keep - 1]) for keep in self._keeps]
        return float(np.quantile(np.nan_to_num(np.min(spoken, axis=0), nan=0.0), CAUTION))

    def _spoken(self, keep: int, kept: Array) -> Array:
        """The correlations that cuts to `keep` speak for, by the share they kept."""
        read = np.interp(kept, self._kept[:, keep - 1], self._grid)
        return read if keep == 1 else np.where(kept < SATURATED, read, 1.0)


def _leads(told: Array, finals: Array) -> Array:
    """The best's lead over the mean among the first 1, 2, ... by `told`: fields (F, n) -> (F, n)."""
    ranked = np.take_along_axis(finals, np.argsort(-told, axis=1, kind="stable"), axis=1)
    return np.asarray(np.maximum.accumulate(ranked, axis=1) - finals.mean(axis=1, keepdims=True))


def estimate(calibration: Calibration | None, preview: float, gap: float, sampler: str, step: int, steps: int) -> float:
    """The final score that a preview foretells, up to a constant that fellows at the same step share."""
    if calibration is None:
        return preview
    share = time_done(sampler, step / steps)
    return _at(calibration, calibration.preview_weight, share) * preview + (
        _at(calibration, calibration.gap_weight, share) * gap
    )


def correlations(calibration: Calibration, sampler: str, steps: int) -> tuple[float, ...]:
    """What previews know after each of `steps` steps, never less than before."""
    shares = (time_done(sampler, (i + 1) / steps) for i in range(steps))
    known = [_at(calibration, (0.0, *calibration.correlation), share) for share in shares]
    return tuple(float(v) for v in np.maximum.accumulate(np.clip(known, 0.0, 0.9999)))


def _parts(traces: Sequence[Trace]) -> tuple[list[Array], list[Array]]:
    return [t.previews for t in traces], [t.gaps for t in traces]


def _at(calibration: Calibration, values: Sequence[float], share: float) -> float:
    """`values` of every step, or with one before them for the start, in between: at a share of the time."""
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
