"""State of one generation in the engine: its rows, their phases, and the outcome.

`scheduler` chooses the next rows, `core` calls the models. Engine thread only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum, auto
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Candidate, GenerationSpec, Safety, Score, StopReason, Timings, Work
from app.engine.latent_codec import stack_latents
from app.engine.notices import unrecognised_prompt_notices, unscored_notices
from app.engine.protocols import Outcome
from app.engine.pruning import wave_gain
from app.engine.ranking import scoring
from app.engine.ranking.placement import place_candidates
from app.engine.texts.encoding import EncodedTexts
from models.protocols import Latent, MatchCalibration, Schedule, ScorerInfo, StepRow
from models.protocols.guards import TYPOGRAPHIC
from models.protocols.image_inputs import ImageInputs
from models.protocols.narrow import LostImage
from models.protocols.steering import Aim


class Phase(IntEnum):
    """The next work of a row; after `FINISH` there is none."""

    STEP = auto()
    ORDERED = auto()
    STEER = auto()
    PREVIEW = auto()
    AT_CHECKPOINT = auto()
    FINISH = auto()
    DONE = auto()
    PRUNED = auto()
    LOST = auto()


LAST_LIVE = Phase.FINISH
"""Up to this phase, a row holds a latent on the device, or waits for one."""

_BY_STEP = attrgetter("step", "index")

_NO_TIME, _NO_WORK = asdict(Timings()), asdict(Work())


@dataclass(slots=True, eq=False)
class Row:
    """A candidate on the device.

    `step` counts completed steps, `calls` denoiser calls; `latent` is None once the row is done or pruned.
    `guidance_gap` is the guidance gap before the last preview. `predicted_scores` holds the final scores predicted by
    previews, by step, `member_embeddings` those of members, by name. `shadow_pruned` marks a row that
    pruning would have dropped. `loss` is why the image of an ordered row did not come, `sent_size` the size of one that
    was resized.
    """

    generation: ActiveGeneration
    index: int
    seed: int
    latent: Latent = None
    step: int = 0
    calls: int = 0
    phase: Phase = Phase.STEP
    score: Score | None = None
    embedding: NDArray[np.float32] | None = None
    stored_latent: NDArray[np.float16] | None = None
    pruned_at: int | None = None
    guidance_gap: float = 0.0
    predicted_scores: dict[int, float] = field(default_factory=dict)
    member_embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    shadow_pruned: bool = False
    loss: LostImage | None = None
    sent_size: tuple[int, int] | None = None

    @property
    def schedule_step(self) -> int:
        """Completed steps of the schedule, including those that a start skips."""
        return self.generation.skipped_steps + self.step

    @property
    def schedule_call(self) -> int:
        """Completed denoiser calls of the schedule, including those that a start skips."""
        return self.generation.first_call + self.calls

    @property
    def sort_score(self) -> float:
        """The score to sort by; NaN without a score."""
        return self.score.score if self.score is not None else float("nan")

    @property
    def phase_after_step(self) -> Phase:
        """The phase after a step that is complete, and steered if that was due."""
        return self.generation.turns.get(self.step, Phase.STEP)

    def denoiser_call(self) -> StepRow:
        """The next denoiser call of the row."""
        run = self.generation
        assert run.texts is not None
        assert run.schedule is not None
        return StepRow(
            self.latent,
            run.texts.prompts[run.spec.wording_index(self.index)],
            run.texts.negative,
            run.spec.guidance_scale,
            run.schedule,
            run.first_call + self.calls,
            self.seed,
            run.inputs,
            run.spec.steering is not None,
        )


@dataclass(eq=False)
class ActiveGeneration:
    """A generation in the engine.

    `deficit` is its credit with the scheduler, in denoiser entries. `needs_rows` requests new rows: at first, and
    before each further wave. `device_seconds` is its device time; a shared call counts by the share of rows. A
    generation with `exclusive` shares the device with no other. `inputs` are the images that all its rows share.
    `guided` rows are two predictions each. With `keeps_field` all finished images are kept. `left_out` says why a
    member does not judge it; `member_queries` are what members compare with, in waves. `aim` is the query as steering
    takes it. `ordered_at` is when the last wave of images was ordered from a generator that makes whole ones. `ms` and
    `done` are the fields of `timings` and `work`: every call adds to them. `schedule` and `texts` are set once.
    """

    spec: GenerationSpec
    submitted: float
    exclusive: bool = False
    inputs: ImageInputs | None = None
    guided: bool = False
    keeps_field: bool = False
    schedule: Schedule | None = None
    texts: EncodedTexts | None = None
    aim: Aim = None
    rows: list[Row] = field(default_factory=list)
    needs_rows: bool = True
    deficit: float = 0.0
    device_seconds: float = 0.0
    reported_step: int = 0
    ordered_at: float = 0.0
    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    member_queries: dict[str, scoring.Query] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=_NO_TIME.copy)
    done: dict[str, int] = field(default_factory=_NO_WORK.copy)
    _keys: dict[int | None, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def timings(self) -> Timings:
        """Durations so far."""
        return Timings(**self.ms)

    @property
    def work(self) -> Work:
        """The work done so far."""
        return Work(**self.done)

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Batching key: rows of runs with equal keys can share a denoiser call.

        The bits of a row depend on the number of guided rows in the call. So deterministic guided and unguided rows
        have different keys. Adapters are active for all rows of a call.
        """
        return self._key(None)

    def step_key(self, row: Row) -> tuple[Any, ...]:
        """The batching key of one row for denoiser calls: its own wording's length counts."""
        return self._key(self.spec.wording_index(row.index))

    def _key(self, wording: int | None) -> tuple[Any, ...]:
        """The key with the texts of one wording, or all; kept once there are texts."""
        if (known := self._keys.get(wording)) is not None:
            return known
        spec, guided = self.spec, self.spec.deterministic and self.guided
        lengths = self.texts.lengths(wording) if self.texts is not None else ()
        key = spec.width, spec.height, lengths, spec.deterministic, guided, spec.loras
        if self.texts is not None:
            self._keys[wording] = key
        return key

    @property
    def entries(self) -> int:
        """Denoiser batch entries per row."""
        return 2 if self.guided else 1

    @property
    def progress(self) -> float:
        """The completed share of all N candidates' steps and decodes, in [0, 1].

        A pruned candidate counts as complete. With waves, N is the maximum.
        """
        return self.share(self.units_done())

    @cached_property
    def units(self) -> int:
        """Units of work of a candidate: its steps, and its decode."""
        return self.spec.steps_made + 1

    def units_done(self) -> int:
        """Completed units of all candidates."""
        return sum([r.step if r.phase <= LAST_LIVE else self.units for r in self.rows])

    def share(self, units: int) -> float:
        """The share of the work that these units are."""
        return units / (self.units * self.spec.n_candidates)

    @cached_property
    def skipped_steps(self) -> int:
        """Steps of the schedule that a start skips."""
        return self.spec.steps - self.spec.steps_made

    @cached_property
    def first_call(self) -> int:
        """Denoiser calls of the schedule that a start skips."""
        assert self.schedule is not None
        return self.schedule.calls_before(self.skipped_steps)

    @cached_property
    def turns(self) -> Mapping[int, Phase]:
        """Phases after completed steps, where they are not `STEP`."""
        return {c.at: Phase.PREVIEW for c in self.spec.checkpoints} | {self.spec.steps_made: Phase.FINISH}

    @cached_property
    def steered_steps(self) -> frozenset[int]:
        """The steps after which rows are steered."""
        return frozenset(self.spec.steered_steps)

    @property
    def calls_made(self) -> int:
        """Denoiser calls per row, without pruning."""
        assert self.schedule is not None
        return self.schedule.calls - self.first_call

    @property
    def has_scores(self) -> bool:
        """Whether a finished row has a score that is a number."""
        return any(np.isfinite(r.sort_score) for r in self.rows if r.phase is Phase.DONE)

    def live_rows(self) -> list[Row]:
        """Return the live rows, by index."""
        return [r for r in self.rows if r.phase <= LAST_LIVE]

    @property
    def is_live(self) -> bool:
        """Whether it has live rows."""
        return any(r.phase <= LAST_LIVE for r in self.rows)

    def steppable_rows(self) -> list[Row]:
        """Return the rows that can step in one call, those with the fewest steps first.

        Wordings of other lengths than the first row's wait for another call.
        """
        ready = [r for r in self.rows if r.phase is Phase.STEP]
        if ready and any(r.step != ready[0].step for r in ready):
            ready.sort(key=_BY_STEP)
        if ready and len(self.spec.wordings) > 1:
            key = self.step_key(ready[0])
            return [r for r in ready if self.step_key(r) == key]
        return ready

    def add_timings(self, **seconds: float) -> None:
        """Add to the timings, named as in `Timings` without `_ms`."""
        for name, value in seconds.items():
            self.ms[f"{name}_ms"] += 1000 * value

    def add_work(self, **work: int) -> None:
        """Add to the work done, named as in `Work`."""
        for name, count in work.items():
            self.done[name] += count

    def note_arrival(self, now: float) -> None:
        """Count the time since images were ordered; the last one came `now`."""
        self.add_timings(denoise=now - self.ordered_at)
        self.device_seconds += now - self.ordered_at

    def keep_image(self, row: Row, image: NDArray[np.uint8]) -> None:
        """Keep a finished image that may be returned: the best n, or all.

        With diversity, an ensemble or guards that change the ranking, any image may be returned.
        """
        self.images[row.index] = image
        if len(self.images) > self.spec.n and self.spec.ranking.diversity == 0 and not self._keeps_all:
            del self.images[max(self.images, key=self._badness)]

    def _badness(self, index: int) -> tuple[float, int]:
        """What sorts an image last: no number, a low score, then its index."""
        score = self.rows[index].sort_score
        return math.inf if math.isnan(score) else -score, index

    @property
    def _keeps_all(self) -> bool:
        """Whether guards, safety, members or a referee need all finished images."""
        spec = self.spec
        return self.keeps_field or bool(spec.ranking.veto) or TYPOGRAPHIC in spec.guards or spec.safety is Safety.VETO

    def needs_wave(self) -> bool:
        """Whether another wave is worthwhile, once all rows so far are done or pruned."""
        wave = self.spec.wave
        if wave is None or len(self.rows) >= self.spec.n_candidates:
            return False
        finished = [r for r in self.rows if r.phase is Phase.DONE and np.isfinite(r.sort_score)]
        scores = [r.sort_score for r in finished]
        return (
            wave_gain.expected_gain(scores, self.predicted_finals(finished), self.spec.n, wave)
            >= wave_gain.MIN_EXPECTED_GAIN
        )

    def predicted_finals(self, finished: list[Row]) -> list[tuple[float, float]]:
        """Return predicted final scores of pruned rows, each with its standard error.

        Both come from the prediction errors at the same step of the finished rows: their mean and deviation.
        """
        found = list[tuple[float, float]]()
        for step in {r.pruned_at for r in self.rows if r.pruned_at is not None}:
            off = np.asarray(
                [r.sort_score - r.predicted_scores[step] for r in finished if np.isfinite(r.predicted_scores[step])]
            )
            if len(off):
                level, error = float(off.mean()), float(off.std(ddof=1)) if len(off) > 1 else 0.0
                found += [(r.predicted_scores[step] + level, error) for r in self.rows if r.pruned_at == step]
        return found

    def _stop_reason(self) -> StopReason | None:
        if self.spec.wave is None:
            return None
        return StopReason.CAP if len(self.rows) >= self.spec.n_candidates else StopReason.GAIN

    def _pruning_regret(self) -> float | None:
        """Return the share of the gain over a random pick that pruning would have lost.

        None for a generation that is not in shadow.
        """
        if not self.spec.shadow:
            return None
        done = [r for r in self.rows if np.isfinite(r.sort_score)]
        kept = [r.sort_score for r in done if not r.shadow_pruned]
        return wave_gain.lost_gain([r.sort_score for r in done], kept, self.spec.n)

    def build_outcome(self, scorer: ScorerInfo, match: MatchCalibration | None = None) -> Outcome:
        """Build the outcome once all rows are done or pruned."""
        spec, scores = self.spec, [None if np.isnan(r.sort_score) else r.score for r in self.rows]
        done = [r.index for r in self.rows if r.phase is Phase.DONE]
        embeddings = np.stack([r.embedding for r in self.rows if r.embedding is not None])
        placements = place_candidates(scores, embeddings, done, spec.ranking, spec.n, scorer, match=match)
        rows = zip(placements.placements, self.rows, scores, strict=True)
        assert self.texts is not None
        return Outcome(
            candidates=tuple(place.apply_to(_candidate(row), score) for place, row, score in rows),
            margin=placements.margin,
            margin_error=placements.margin_error,
            low_confidence=placements.low_confidence,
            stopped=self._stop_reason(),
            regret=self._pruning_regret(),
            notices=(
                *self.texts.notices,
                *unscored_notices([r.index for r in self.rows if np.isnan(r.sort_score) and r.phase is not Phase.LOST]),
                *unrecognised_prompt_notices([scores[i] for i in done], scorer, self.texts.notices),
            ),
            timings=self.timings,
            work=self.work,
            embeddings=embeddings,
            latents=stack_latents([r.stored_latent for r in self.rows if r.stored_latent is not None]),
            images=self.images if self._keeps_all else {i: self.images[i] for i in placements.returned},
            query=self.texts.query,
            members=self._member_embeddings(),
            left_out=self.left_out,
        )

    def _member_embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Return (N, D) of members that judged all finished rows; NaN for the others."""
        names = dict.fromkeys(name for row in self.rows for name in row.member_embeddings)
        found = dict[str, NDArray[np.float32]]()
        for name in (name for name in names if name not in self.left_out):
            width = len(next(r.member_embeddings[name] for r in self.rows if name in r.member_embeddings))
            missing = np.full(width, np.nan, np.float32)
            found[name] = np.stack([row.member_embeddings.get(name, missing) for row in self.rows])
        return found


def _candidate(row: Row) -> Candidate:
    return Candidate(
        index=row.index,
        seed=row.seed,
        pruned_at_step=row.pruned_at,
        score_is_preview=row.pruned_at is not None,
        failure=row.loss.detail if row.loss is not None else None,
    )
