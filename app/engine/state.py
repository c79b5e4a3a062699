"""A generation in the engine: its rows, where each stands, and the outcome they add up to.

Owns the state of one generation and nothing else: `scheduler` decides who runs next, `core` calls the models.
Engine thread only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Candidate, GenerationSpec, Notice, Score, Stop, Timings, Work
from app.engine.notices import chance
from app.engine.protocols import Outcome
from app.engine.pruning import early_stopping
from app.engine.ranking import scoring
from app.engine.ranking.placement import stand
from models.protocols import Conditioning, Latent, Schedule, ScorerInfo


class Phase(Enum):
    """What a row waits for."""

    STEP = auto()
    PREVIEW = auto()
    PARKED = auto()
    FINISH = auto()
    DONE = auto()
    PRUNED = auto()


LIVE = frozenset({Phase.STEP, Phase.PREVIEW, Phase.PARKED, Phase.FINISH})
"""Phases of a row that still holds a latent on the device."""


@dataclass(slots=True, eq=False)
class Row:
    """A candidate on the device. `step` counts the steps it made; `latent` is gone once it is done or pruned.

    `gap` is how far guidance pulled before the last preview; `foretold` is what the preview after a step speaks for,
    by step; `shadowed` marks one that would have been pruned.
    """

    run: Run
    index: int
    seed: int
    latent: Latent = None
    step: int = 0
    phase: Phase = Phase.STEP
    score: Score | None = None
    embedding: NDArray[np.float32] | None = None
    stored: NDArray[np.float16] | None = None
    pruned_at: int | None = None
    gap: float = 0.0
    foretold: dict[int, float] = field(default_factory=dict)
    shadowed: bool = False

    @property
    def place(self) -> int:
        """Steps of the schedule that lie behind it, those that a start left out included."""
        spec = self.run.spec
        return spec.steps - spec.steps_made + self.step

    @property
    def value(self) -> float:
        """The score to sort by; NaN where there is none."""
        return self.score.score if self.score is not None else float("nan")


@dataclass(slots=True)
class Texts:
    """What `encode` made of a generation's texts, for the denoiser and for the scorer."""

    prompt: Conditioning
    negative: Conditioning | None
    query: scoring.Query
    notices: tuple[Notice, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Token lengths that rows of one call have in common; a negative text of the prompt's length adds none."""
        lengths = (self.prompt.length, self.negative.length if self.negative is not None else self.prompt.length)
        return tuple(dict.fromkeys(lengths))


@dataclass(slots=True, eq=False)
class Run:
    """A generation in the engine. `deficit` is its credit with the scheduler, in denoiser entries.

    `due` says that rows are to be made: at first, and before each further wave. `seconds` is its share of device
    time: of a call that it shared, by its rows. One that is `alone` shares the device with no other.
    """

    spec: GenerationSpec
    submitted: float
    alone: bool = False
    schedule: Schedule | None = None
    texts: Texts | None = None
    rows: list[Row] = field(default_factory=list)
    due: bool = True
    deficit: float = 0.0
    seconds: float = 0.0
    reported: int = 0
    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    timings: Timings = Timings()
    work: Work = Work()

    @property
    def key(self) -> tuple[Any, ...]:
        """Rows of runs with equal keys can share a denoiser call.

        The bits of a row depend on how many rows of the call are guided, so deterministic ones keep to their kind.
        """
        spec, texts = self.spec, self.texts
        lengths = texts.lengths if texts is not None else ()
        return spec.width, spec.height, lengths, spec.deterministic, spec.deterministic and spec.guided

    @property
    def entries(self) -> int:
        """Denoiser batch entries that one of its rows costs."""
        return 2 if self.spec.guided else 1

    def live(self) -> list[Row]:
        """Rows that are still in the race, by index."""
        return [r for r in self.rows if r.phase in LIVE]

    def ready(self) -> list[Row]:
        """Rows that can make a step, those furthest behind first."""
        return sorted((r for r in self.rows if r.phase is Phase.STEP), key=lambda r: (r.step, r.index))

    def spend(self, **seconds: float) -> None:
        """Add to the timings, named as in `Timings` without `_ms`."""
        self.timings = replace(
            self.timings, **{f"{k}_ms": getattr(self.timings, f"{k}_ms") + 1000 * v for k, v in seconds.items()}
        )

    def count(self, **work: int) -> None:
        """Add to the work done, named as in `Work`."""
        self.work = replace(self.work, **{k: getattr(self.work, k) + v for k, v in work.items()})

    def hold_image(self, row: Row, image: NDArray[np.uint8]) -> None:
        """Keep a finished picture while it may still be returned: among the best n so far, or any for diversity."""
        self.images[row.index] = image
        if len(self.images) > self.spec.n and self.spec.ranking.diversity == 0:
            held = sorted(self.images)
            worst = held[scoring.order([self.rows[i].value for i in held])[-1]]
            del self.images[worst]

    def wants_more(self) -> bool:
        """Whether another wave is worth making, now that all rows so far are done or pruned."""
        wave = self.spec.wave
        if wave is None or len(self.rows) >= self.spec.n_candidates:
            return False
        finished = [r for r in self.rows if r.phase is Phase.DONE and np.isfinite(r.value)]
        scores = [r.value for r in finished]
        return early_stopping.expected_gain(scores, self._pruned(finished), self.spec.n, wave) >= early_stopping.WORTH

    def _pruned(self, finished: list[Row]) -> list[tuple[float, float]]:
        """The final scores that previews foretell of the pruned, and the error of that.

        Both by what the same previews of those who finished were off: on average, and from one to the other.
        """
        found = list[tuple[float, float]]()
        for step in {r.pruned_at for r in self.rows if r.pruned_at is not None}:
            off = np.asarray([r.value - r.foretold[step] for r in finished if np.isfinite(r.foretold[step])])
            if len(off):
                level, error = float(off.mean()), float(off.std(ddof=1)) if len(off) > 1 else 0.0
                found += [(r.foretold[step] + level, error) for r in self.rows if r.pruned_at == step]
        return found

    def _stopped(self) -> Stop | None:
        if self.spec.wave is None:
            return None
        return Stop.CAP if len(self.rows) >= self.spec.n_candidates else Stop.GAIN

    def _regret(self) -> float | None:
        """Share of the gain over a random pick that pruning would have lost; None outside the shadow."""
        if not self.spec.shadow:
            return None
        done = [r for r in self.rows if np.isfinite(r.value)]
        kept = [r for r in done if not r.shadowed]
        if len(kept) < min(self.spec.n, len(done)):
            return 1.0
        best, left = (_best_mean(rows, self.spec.n) for rows in (done, kept))
        mean = float(np.mean([r.value for r in done]))
        return (best - left) / (best - mean) if best > mean else 0.0

    def conclude(self, scorer: ScorerInfo) -> Outcome:
        """The outcome of a run whose rows are all done or pruned."""
        spec, scores = self.spec, [None if np.isnan(r.value) else r.score for r in self.rows]
        done = [r.index for r in self.rows if r.phase is Phase.DONE]
        embeddings = np.stack([r.embedding for r in self.rows if r.embedding is not None])
        standing = stand(scores, embeddings, done, spec.ranking, spec.n, scorer)
        rows = zip(standing.places, self.rows, scores, strict=True)
        assert self.texts is not None
        return Outcome(
            candidates=tuple(place.given_to(_candidate(row), score) for place, row, score in rows),
            margin=standing.margin,
            low_confidence=standing.low_confidence,
            stopped=self._stopped(),
            regret=self._regret(),
            notices=(
                *self.texts.notices,
                *_unscored(self.rows),
                *chance([scores[i] for i in done], scorer, self.texts.notices),
            ),
            timings=self.timings,
            work=self.work,
            embeddings=embeddings,
            latents=np.stack([r.stored for r in self.rows if r.stored is not None]),
            images={i: self.images[i] for i in standing.returned},
        )


def _best_mean(rows: list[Row], n: int) -> float:
    return float(np.mean(sorted((r.value for r in rows), reverse=True)[:n]))


def _unscored(rows: list[Row]) -> tuple[Notice, ...]:
    lost = [r.index for r in rows if np.isnan(r.value)]
    detail = f"the scorer gave no number for {len(lost)} candidates"
    return (Notice("score_not_a_number", detail, {"indices": lost}),) if lost else ()


def _candidate(row: Row) -> Candidate:
    return Candidate(
        index=row.index,
        seed=row.seed,
        pruned_at_step=row.pruned_at,
        score_is_preview=row.pruned_at is not None,
    )
