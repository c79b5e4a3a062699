"""Sweep: score, referee and artefacts of a model against the scale of steering.

The same seeds are sampled at every scale, so that each figure is a paired difference to the unsteered field. Drives
its own core on the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.core import EngineCore
from app.engine.trajectories import default_spec, run_generations
from models.protocols import GeneratorInfo
from models.protocols.steering import SteeringSettings

Array: TypeAlias = NDArray[np.float64]

Referee: TypeAlias = Callable[[str, NDArray[np.uint8]], Array]
"""Scores (N,) of images (N, H, W, 3) for a prompt, by a model that does not steer."""

ARTEFACTS = ("variation", "clipped", "high_band")
"""Image statistics that steering may change, see `image_statistics`."""

HIGH_BAND = 0.5
"""Spatial frequencies above this share of the highest one are the high band."""

BAND = 1.96
"""Half width of the base's 95 % band, in standard errors of its mean."""


@dataclass(frozen=True, slots=True, eq=False)
class SweepPoint:
    """Means over candidates at one scale, one value per prompt.

    `seconds` are per candidate.
    """

    scale: float
    values: Mapping[str, Array]
    seconds: float


@dataclass(frozen=True, slots=True)
class SweepRow:
    """A point against the unsteered one: mean differences and standard errors.

    `cost` is the time relative to unsteered candidates.
    """

    scale: float
    change: Mapping[str, float]
    error: Mapping[str, float]
    cost: float


def sweep(
    core: EngineCore,
    info: GeneratorInfo,
    prompts: Sequence[str],
    scales: Sequence[float],
    *,
    n_candidates: int,
    seed: int = 0,
    referee: Referee | None = None,
    together: int = 1,
    progress: Callable[[], None] = lambda: None,
    seen: Callable[[str, float, NDArray[np.uint8]], None] = lambda *_: None,
) -> list[SweepPoint]:
    """Sample every prompt at scale 0 and at these scales.

    They may exceed the limit of requests. Candidates have the seeds from `seed` on. The fields of `together` prompts
    share calls. `progress` is called after each field, and `seen` with prompt, scale and images (N, H, W, 3). Raises
    the engine's own error when a field fails.
    """
    points = []
    for scale in (0.0, *scales):
        columns: dict[str, list[float]] = {}
        began, spent = perf_counter(), 0.0
        specs = [_spec(info, p, place, seed, n_candidates, scale) for place, p in enumerate(prompts)]
        for start in range(0, len(specs), together):
            outcomes = run_generations(core, specs[start : start + together])
            paused = perf_counter()
            for prompt, outcome in zip(prompts[start:], outcomes, strict=False):
                images = np.stack([outcome.images[i] for i in range(n_candidates)])
                values = {"score": np.array([c.score.score for c in outcome.candidates if c.score is not None])}
                if referee is not None:
                    values["referee"] = referee(prompt, images)
                values |= dict(zip(ARTEFACTS, image_statistics(images), strict=True))
                for name, each in values.items():
                    columns.setdefault(name, []).append(float(np.mean(each)))
                seen(prompt, scale, images)
                progress()
            spent += perf_counter() - paused
        seconds = (perf_counter() - began - spent) / (len(prompts) * n_candidates)
        points.append(SweepPoint(scale, {name: np.array(each) for name, each in columns.items()}, seconds))
    return points


def _spec(info: GeneratorInfo, prompt: str, place: int, seed: int, n: int, scale: float) -> GenerationSpec:
    steering = SteeringSettings(scale) if scale > 0 else None
    return replace(default_spec(info, f"sweep_{place}", prompt, n, seed + place * n), steering=steering)


def image_statistics(images: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
    """Total variation, clipped values and energy in the high band, (N,) each.

    The last two are shares. Variation is the mean absolute difference of neighbours in 0..1. Energy is that of the
    luminance without its mean.
    """
    levels = images.astype(np.float64) / 255
    down, across = np.abs(np.diff(levels, axis=1)), np.abs(np.diff(levels, axis=2))
    variation = (down.mean(axis=(1, 2, 3)) + across.mean(axis=(1, 2, 3))) / 2
    clipped = ((images == 0) | (images == 255)).mean(axis=(1, 2, 3))
    luminance = levels @ np.array([0.299, 0.587, 0.114])
    energy = np.abs(np.fft.rfft2(luminance - luminance.mean(axis=(1, 2), keepdims=True))) ** 2
    rows, columns = np.fft.fftfreq(images.shape[1]), np.fft.rfftfreq(images.shape[2])
    high = np.hypot(rows[:, None], columns[None]) > HIGH_BAND * 0.5
    high_band = energy[:, high].sum(axis=1) / np.maximum(energy.sum(axis=(1, 2)), 1e-12)
    return variation, clipped, high_band


def compared(points: Sequence[SweepPoint]) -> list[SweepRow]:
    """Paired differences to the first point, which is the unsteered one."""
    base, rows = points[0], []
    for point in points:
        apart = {name: values - base.values[name] for name, values in point.values.items()}
        errors = {name: float(each.std(ddof=1) / np.sqrt(len(each))) for name, each in apart.items()}
        means = {name: float(each.mean()) for name, each in apart.items()}
        rows.append(SweepRow(point.scale, means, errors, point.seconds / base.seconds))
    return rows


def where_to_stop(points: Sequence[SweepPoint]) -> tuple[float, str]:
    """The scale to use, and why.

    With a referee it is the smallest scale within a standard error of the referee's best, if that is above the
    unsteered field. Without one it is the largest scale at which every artefact stays in the unsteered band.
    """
    rows = compared(points)
    if "referee" in points[0].values:
        best = max(rows, key=lambda row: row.change["referee"])
        if best.change["referee"] - BAND * best.error["referee"] <= 0:
            return 0.0, "the referee sees no scale above the unsteered images"
        enough = best.change["referee"] - best.error["referee"]
        chosen = next(row for row in rows if row.change["referee"] >= enough)
        return chosen.scale, "the smallest scale within a standard error of the referee's best"
    kept = 0.0
    for row in rows[1:]:
        wide = {name: BAND * _error(points[0].values[name]) for name in ARTEFACTS}
        outside = [name for name in ARTEFACTS if abs(row.change[name]) > wide[name]]
        if outside:
            return kept, f"at {row.scale:g} the statistic {outside[0]} leaves the band of unsteered images"
        kept = row.scale
    return kept, "no artefact statistic left the band of unsteered images; there is no referee to confirm the gain"


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
