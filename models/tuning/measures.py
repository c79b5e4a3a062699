"""What a policy is worth on held-out prompts, and paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bootstrap import interval
from models.guards import artefacts
from models.protocols import Images, to_host
from models.protocols.guards import ArtefactLimits
from models.tuning.rewards import Opinion, Scores
from models.tuning.sampling import Field, FieldSampler, seeds_of
from models.tuning.settings import TuningError

SHEET_PROMPTS, SHEET_CANDIDATES = 8, 4
"""Images kept for the sheet: prompts, and candidates of each."""

_Z = 1.96


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy on the held-out prompts: lists hold one value a prompt.

    `reward`, `referee` and `others` are means over the candidates; `best` is the referee's value of the candidate with
    the highest reward, of those that both have scored. `others_best` are those of further opinions; None where an
    opinion had no number. `diversity` is the mean distance of two candidates. `flagged` of `images` images have
    artefacts by the limits of the base.
    """

    iteration: int
    reward: list[float]
    referee: list[float]
    best: list[float]
    diversity: list[float]
    flagged: int
    images: int
    others: dict[str, list[float | None]] = field(default_factory=dict)
    others_best: dict[str, list[float | None]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Means over the prompts, for logs and reports.

        The mean of a further opinion leaves prompts without a number out, and `unmeasured` counts them; None without
        any number.
        """
        means = {name: float(np.mean(getattr(self, name))) for name in ("reward", "referee", "best", "diversity")}
        further = self.others | {f"{name}_best": values for name, values in self.others_best.items()}
        missing = {name: values.count(None) for name, values in further.items() if None in values}
        return {
            "iteration": self.iteration,
            **means,
            **{name: _mean(_numbers(values)) for name, values in further.items()},
            "artefacts": self.flagged / self.images,
            **({"unmeasured": missing} if missing else {}),
        }


class Examiner:
    """Measures policies on the same prompts and seeds.

    `limits` are those of artefacts; the first measurement, that of the base, fits them.
    """

    def __init__(
        self,
        sampler: FieldSampler,
        prompts: Sequence[str],
        candidates: int,
        opinions: tuple[Opinion, Opinion],
        others: Mapping[str, Opinion] | None = None,
    ) -> None:
        """`opinions` are reward and referee."""
        self.limits: ArtefactLimits | None = None
        self.prompts = list(prompts)
        self._sampler, self._candidates = sampler, candidates
        self._reward, self._referee = opinions
        self._others = others or {}
        self._embed = self._referee.embed or self._reward.embed

    def measure(self, iteration: int, *key: int, sheet: dict[str, Images] | None = None) -> Measured:
        """Measure the active policy with seeds of `key`.

        `sheet` receives images of the first prompts.
        """
        others = ({name: list[float | None]() for name in self._others} for _ in range(2))
        made = Measured(iteration, [], [], [], [], 0, 0, next(others), next(others))
        seeds = [seeds_of(*key, place, count=self._candidates) for place in range(len(self.prompts))]
        statistics = []
        for drawn in self._sampler.draw(self.prompts, self._candidates, seeds):
            images = to_host(drawn.images)
            self._judge(made, drawn)
            made.diversity.append(diversity(self._vectors(drawn)))
            statistics += [artefacts.measure(image) for image in images]
            if sheet is not None and len(sheet) < SHEET_PROMPTS:
                sheet[drawn.prompt] = images[:SHEET_CANDIDATES]
        if self.limits is None:
            self.limits = artefacts.fit_limits(statistics)
        flagged = sum(bool(artefacts.reasons(each, self.limits)) for each in statistics)
        return replace(made, flagged=flagged, images=len(statistics))

    def facts(self) -> dict[str, float | None]:
        """The limits of artefacts, for the state of a run."""
        assert self.limits is not None
        return asdict(self.limits)

    def restore(self, facts: Mapping[str, float | None]) -> None:
        """Set the limits from `facts`."""
        self.limits = ArtefactLimits(**facts)  # type: ignore[arg-type]

    def _judge(self, made: Measured, drawn: Field) -> None:
        rewards = self._reward.score(drawn.prompt, drawn.images)
        judged = self._referee.score(drawn.prompt, drawn.images)
        top = best_of(rewards, judged)
        if top is None:
            names = f"{self._reward.id!r} and {self._referee.id!r}"
            raise TuningError(f"{names} scored no candidate of {drawn.prompt!r} both with numbers: name others")
        made.reward.append(float(rewards[np.isfinite(rewards)].mean()))
        made.referee.append(float(judged[np.isfinite(judged)].mean()))
        made.best.append(float(judged[top]))
        for name, opinion in self._others.items():
            values = opinion.score(drawn.prompt, drawn.images)
            made.others[name].append(_mean(values))
            made.others_best[name].append(_mean(values[top : top + 1]))

    def _vectors(self, drawn: Field) -> NDArray[np.floating[Any]]:
        """Candidates as vectors, for distances."""
        if self._embed is None:
            return _pixels(to_host(drawn.images))
        vectors = self._embed(drawn.images)
        if not np.isfinite(vectors).all():
            raise TuningError(f"the embeddings of {drawn.prompt!r} hold values that are no numbers: name other scorers")
        return vectors


def best_of(rewards: Scores, judged: Scores) -> int | None:
    """The candidate with the highest reward, of those with two numbers.

    None without any.
    """
    known = np.isfinite(rewards) & np.isfinite(judged)
    return int(np.nanargmax(np.where(known, rewards, np.nan))) if known.any() else None


def diversity(vectors: NDArray[np.floating[Any]]) -> float:
    """Mean distance of two of the vectors (N, D), N at least 2."""
    rows = vectors.astype(np.float64)
    squares = (rows**2).sum(1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0.0))
    return float(apart[np.triu_indices(len(rows), 1)].mean())


def difference(values: Sequence[float | None], base: Sequence[float | None]) -> dict[str, Any]:
    """Mean paired difference with its 95 % interval, and over how many `prompts`.

    A pair without two numbers is left out; `mean` and `interval` are None if none is left.
    """
    pairs = [(one, other) for one, other in zip(values, base, strict=True) if one is not None and other is not None]
    if not pairs:
        return {"mean": None, "interval": None, "prompts": 0}
    apart = np.subtract(*np.array(pairs, np.float64).T)
    return {"mean": float(apart.mean()), "interval": list(interval(apart)), "prompts": len(pairs)}


def standard_error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def upper_share(count: int, total: int) -> float:
    """Upper end of Wilson's 95 % interval of a share."""
    share, square = count / total, _Z**2 / total
    middle, half = share + square / 2, _Z * np.sqrt(share * (1 - share) / total + square / (4 * total))
    return float((middle + half) / (1 + square))


def _numbers(values: Sequence[float | None]) -> Scores:
    return np.array([each for each in values if each is not None], np.float64)


def _mean(values: Scores) -> float | None:
    """The mean of the values that are numbers; None if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _pixels(images: Images) -> NDArray[np.float32]:
    """Images as vectors whose distance is the root mean square of levels, 0 to 1."""
    flat = images.reshape(len(images), -1).astype(np.float32) / 255
    return np.asarray(flat / np.sqrt(flat.shape[1]), np.float32)
