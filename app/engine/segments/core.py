"""An `EngineCore` that runs segments in place of whole generations.

Owns how rows continue from a message, and what a segment returns. Rows of all segments share device calls, as those of
generations do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Finished, Previewed, Pruned, Update
from app.engine.ranking.scoring import Query
from app.engine.scheduler import CallPlan
from app.engine.segments.messages import Kept, RowResult, Segment, SegmentDone, SegmentRow
from app.engine.state import ActiveGeneration, Phase, Row
from app.engine.texts.encoding import EncodedTexts
from models.errors import ModelUnsupported
from models.protocols import Latent, Models, Schedule
from models.protocols.image_inputs import ImageInputs
from models.protocols.portable import LatentState, is_portable
from models.protocols.steering import Aim

PREPARED = 128
"""Generations whose encoded texts are remembered between segments."""

KEPT_LATENTS = 1024
"""Latents that are kept for generators that cannot export them."""

KEEP_S = 0.25
"""Seconds between two exports of a segment's latents.

The death of a worker loses about as much.
"""

OnEnd: TypeAlias = Callable[[SegmentDone], None]
"""Receives the result on the engine's thread."""

OnKept: TypeAlias = Callable[[Kept], None]
"""Receives latents on the way, on the engine's thread."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What all segments of a generation share on a device."""

    schedule: Schedule
    texts: EncodedTexts
    aim: Aim
    inputs: ImageInputs | None
    member_queries: dict[str, Query]
    left_out: dict[str, str]


@dataclass(eq=False, kw_only=True)
class SegmentRun(ActiveGeneration):
    """A segment on the device; `generation` is the id of the generation it belongs to.

    `images` holds previews too. `states` are exported latents.
    """

    segment: Segment
    on_end: OnEnd
    on_kept: OnKept
    kept_at: float | None = None
    states: dict[int, LatentState] = field(default_factory=dict)

    @property
    def generation(self) -> str:
        """The id of the whole generation."""
        return self.segment.spec.id


class SegmentCore(EngineCore):
    """The segments on one device. Engine thread only."""

    def __init__(
        self,
        models: Models,
        config: EngineConfig,
        clock: Callable[[], float] = perf_counter,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ModelUnsupported for a generator that makes whole images."""
        super().__init__(models, config, clock, wake)
        if self._orders.whole_images:
            raise ModelUnsupported("a remote generator runs on no device: name one device, or none")
        self._portable = models.generator if is_portable(models.generator) else None
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self._kept: OrderedDict[tuple[str, int, int], Latent] = OrderedDict()

    def submit_segment(self, segment: Segment, submitted: float, on_end: OnEnd, on_kept: OnKept) -> None:
        """Add a segment that arrived at `submitted` (seconds of this clock)."""
        guided = self._generator.info.is_guided(segment.spec.guidance_scale)
        self._scheduler.add(
            SegmentRun(
                _spec_of(segment),
                submitted,
                inputs=segment.inputs,
                guided=guided,
                keeps_field=True,
                segment=segment,
                on_end=on_end,
                on_kept=on_kept,
            )
        )

    def forget(self, generation_id: str) -> None:
        """Drop what is remembered of a generation that has ended."""
        self._prepared.pop(generation_id, None)
        for key in [key for key in self._kept if key[0] == generation_id]:
            del self._kept[key]

    def _encode(self, run: ActiveGeneration) -> None:
        assert isinstance(run, SegmentRun)
        known = self._prepared.get(run.generation)
        if known is None:
            super()._encode(run)
            assert run.schedule is not None
            assert run.texts is not None
            known = self._prepared[run.generation] = _Prepared(
                run.schedule, run.texts, run.aim, run.inputs, run.member_queries, dict(run.left_out)
            )
            _limit(self._prepared, PREPARED)
        run.schedule, run.texts, run.aim, run.inputs = known.schedule, known.texts, known.aim, known.inputs
        run.member_queries = known.member_queries
        run.left_out.update(known.left_out)

    def _make_wave(self, run: ActiveGeneration) -> None:
        assert isinstance(run, SegmentRun)
        run.needs_rows, run.reported_step = False, run.segment.step
        run.rows += [self._continued(run, each) for each in run.segment.rows]

    def _continued(self, run: SegmentRun, given: SegmentRow) -> Row:
        """A row at the segment's first step, or before its first one."""
        assert run.schedule is not None
        latent = self._latent(run, given)
        if latent is None:
            return self._row(run, run.schedule, given.index)
        step = run.segment.step
        skipped = run.spec.steps - run.spec.steps_made
        calls = run.schedule.calls_before(skipped + step) - run.first_call
        return Row(run, given.index, run.spec.candidate_seed(given.index), latent, step=step, calls=calls)

    def _latent(self, run: SegmentRun, given: SegmentRow) -> Latent | None:
        if given.state is None or self._portable is None:
            return self._kept.get((run.generation, given.index, run.segment.step))
        assert run.schedule is not None
        return self._portable.restore([given.state], run.schedule, run.first_call)[0]

    def _step(self, plan: CallPlan) -> None:
        super()._step(plan)
        for run in plan.generations:
            assert isinstance(run, SegmentRun)
            self._keep(run)

    def _keep(self, run: SegmentRun) -> None:
        """Export the latents of a segment between two steps, now and then.

        Rows that take turns in smaller calls are rarely at one step; then nothing is exported.
        """
        now, rows = self._clock(), run.live_rows()
        run.kept_at = now if run.kept_at is None else run.kept_at
        step = rows[0].step
        if self._portable is None or now - run.kept_at < KEEP_S or not run.segment.step < step < run.segment.stop:
            return
        assert run.schedule is not None
        begun = run.schedule.calls_before(rows[0].schedule_step)
        if any(r.phase is not Phase.STEP or r.step != step or r.schedule_call != begun for r in rows):
            return
        states = self._portable.export([r.latent for r in rows])
        kept = {row.index: state for row, state in zip(rows, states, strict=True)}
        run.kept_at = now
        run.on_kept(Kept(step, kept, run.work, run.device_seconds))

    def _preview(self, plan: CallPlan) -> None:
        super()._preview(plan)
        exported: list[LatentState | None] = [None] * len(plan.rows)
        if self._portable is not None:
            exported = [*self._portable.export([r.latent for r in plan.rows])]
        for row, state in zip(plan.rows, exported, strict=True):
            run = row.generation
            assert isinstance(run, SegmentRun)
            row.stored_latent = self._generator.dump([row.latent], preview=True)[0]
            if state is not None:
                run.states[row.index] = state
            else:
                self._kept[run.generation, row.index, row.step] = row.latent
        _limit(self._kept, KEPT_LATENTS)

    def _settle_checkpoint(self, run: ActiveGeneration) -> None:
        """Leave the rows at their checkpoint: the coordinator prunes."""

    def _end_completed(self, runs: Iterable[ActiveGeneration]) -> None:
        for run in runs:
            if run.rows and all(r.phase in {Phase.AT_CHECKPOINT, Phase.DONE} for r in run.rows):
                assert isinstance(run, SegmentRun)
                self._scheduler.remove(run)
                self.started.discard(run.spec.id)
                run.on_end(_result(run))
                run.rows = []

    def _emit(self, run: ActiveGeneration, update: Update) -> None:
        if isinstance(update, Previewed | Finished):
            run.images[update.index] = update.image
        elif not isinstance(update, Pruned):
            super()._emit(run, update)


def _spec_of(segment: Segment) -> GenerationSpec:
    """The specification of a segment as a generation without earlier checkpoints."""
    ahead = tuple(c for c in segment.spec.checkpoints if c.at > segment.step)
    return replace(segment.spec, id=segment.id, n_candidates=len(segment.rows), checkpoints=ahead)


def _result(run: SegmentRun) -> SegmentDone:
    assert run.texts is not None
    return SegmentDone(
        tuple(_row_result(run, row) for row in run.rows),
        run.texts.query,
        run.member_queries,
        run.texts.notices,
        run.left_out,
        run.calls_made,
        run.device_seconds,
        run.timings,
        run.work,
    )


def _row_result(run: SegmentRun, row: Row) -> RowResult:
    assert row.score is not None
    assert row.embedding is not None
    assert row.stored_latent is not None
    return RowResult(
        row.index,
        row.step,
        row.phase is Phase.DONE,
        row.score,
        row.embedding,
        row.stored_latent,
        _own(run.images[row.index]),
        row.guidance_gap,
        row.predicted_scores.get(row.step, float("nan")),
        row.member_embeddings,
        run.states.get(row.index),
    )


def _own(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image without the batch that it is a view of, which would travel with it."""
    return image if image.base is None else image.copy()


def _limit(known: OrderedDict[Any, Any], most: int) -> None:
    while len(known) > most:
        known.popitem(last=False)
