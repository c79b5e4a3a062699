"""One generation over several workers.

Owns its rows without latents, from the first segment to the outcome. Pruning, waves and placement are those of one
device, in `state` and `scheduler`: the whole field is compared.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import count, groupby
from time import perf_counter

from app.domain import GenerationSpec, Timings, Work
from app.engine.cluster.dispatcher import Dispatcher
from app.engine.cluster.slots import Chunk, Delivery
from app.engine.core import NO_SCORES
from app.engine.members.progress import apply_checkpoint
from app.engine.members.waves import needs_wave
from app.engine.protocols import Finished, Outcome, Previewed, Pruned, Started, Stepped, Update, UpdateSink
from app.engine.segments.messages import Kept, RowResult, Segment, SegmentDone, SegmentRow, next_stop
from app.engine.state import ActiveGeneration, Phase, Row
from app.engine.texts.encoding import EncodedTexts
from app.errors import EngineFailed
from models.protocols import MatchCalibration, ScorerInfo
from models.protocols.image_inputs import ImageInputs
from models.protocols.portable import LatentState

CHUNK_ROWS = 8
"""Maximum rows of a segment."""


class Race:
    """A generation whose rows are on workers.

    `keeps_field` is whether images of all finished rows are needed, `area` the image's size relative to the default.
    `device_seconds` is that of all segments whose results count.
    """

    def __init__(
        self,
        spec: GenerationSpec,
        sink: UpdateSink,
        dispatcher: Dispatcher,
        *,
        exclusive: bool = False,
        inputs: ImageInputs | None = None,
        keeps_field: bool = False,
        area: float = 1.0,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.run = ActiveGeneration(spec, clock(), exclusive, inputs, keeps_field=keeps_field)
        self.calls_made = 0
        self._sink = sink
        self._dispatcher = dispatcher
        self._area = area
        self._clock = clock
        self._states: dict[int, LatentState] = {}
        self._homes: dict[int, str] = {}
        self._before: dict[tuple[int, int], Kept] = {}
        self._ids = count()
        self._name = f"{spec.id}.{secrets.token_hex(4)}"  # another front may have run the same generation

    @property
    def started(self) -> bool:
        """Whether a worker has begun."""
        return self.run.timings.queue_ms > 0

    async def follow(self, scorer: Callable[[], ScorerInfo], match: Callable[[], MatchCalibration | None]) -> Outcome:
        """Run it to its end, and return the outcome. Raises the error of a segment."""
        run = self.run
        try:
            while True:
                new = self._add_wave()
                while live := run.live_rows():
                    await self._leg(live)
                    self._settle_checkpoint()
                run.add_work(rows_unpruned=self.calls_made * new)
                if not needs_wave(run, scorer().id):
                    break
        finally:
            self._dispatcher.withdraw(run.spec.id)
        if not run.has_scores:
            raise EngineFailed(NO_SCORES)
        run.add_timings(total=self._clock() - run.submitted)
        return run.build_outcome(scorer(), match())

    def _add_wave(self) -> int:
        """Add the rows of the next wave, or all; return their number."""
        run, first = self.run, len(self.run.rows)
        last = min(run.spec.n_candidates, first + (run.spec.wave or run.spec.n_candidates))
        run.rows += [Row(run, index, run.spec.candidate_seed(index)) for index in range(first, last)]
        run.reported_step = 0
        return last - first

    async def _leg(self, rows: Sequence[Row]) -> None:
        """Take rows of one step to the next checkpoint, or to the end."""
        loop = asyncio.get_running_loop()
        chunks = [self._chunk(part, loop.create_future()) for part in self._parts(rows)]
        self._dispatcher.submit(chunks)
        slowest = Timings()
        try:
            for ended in asyncio.as_completed([chunk.done for chunk in chunks]):
                delivery = await ended
                self._apply(delivery)
                slowest = _slowest(slowest, delivery.result.timings)
        finally:
            for chunk in chunks:
                if not chunk.done.cancel() and not chunk.done.cancelled():
                    chunk.done.exception()
        for stage in ("encode_ms", "denoise_ms", "preview_ms", "finish_ms"):  # the queue counts once
            self.run.ms[stage] += getattr(slowest, stage)

    def _parts(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows in chunks: evenly over idle workers, at most `CHUNK_ROWS` each.

        Rows whose latents are kept on a worker stay together.
        """
        parts = list[list[Row]]()
        by_home = sorted(rows, key=lambda r: (self._homes.get(r.index, ""), r.index))
        for home, group in groupby(by_home, key=lambda r: self._homes.get(r.index, "")):
            same = list(group)
            number = math.ceil(len(same) / CHUNK_ROWS)
            if not home and (idle := self._dispatcher.idle_workers):
                number = min(len(same), math.ceil(number / idle) * idle)
            parts += [same[len(same) * k // number : len(same) * (k + 1) // number] for k in range(number)]
        return parts

    def _chunk(self, rows: Sequence[Row], done: asyncio.Future[Delivery]) -> Chunk:
        spec, step = self.run.spec, rows[0].step
        indices = [row.index for row in rows]

        def make() -> Segment:
            states = tuple(SegmentRow(index, self._states.get(index)) for index in indices)
            return Segment(f"{self._name}.{next(self._ids)}", spec, chunk.step, states, self.run.inputs)

        def on_step(reached: int) -> None:
            self._note_step(rows, reached)

        chunk = Chunk(
            spec.id,
            spec.owner,
            len(rows),
            step,
            next_stop(spec, step),
            make,
            on_step,
            self._keep,
            done,
            home=self._homes.get(rows[0].index),
            exclusive=self.run.exclusive,
            area=self._area,
        )
        return chunk

    # what workers report

    def _keep(self, first: int, kept: Kept) -> None:
        """Take in latents of rows that began at step `first`, for later attempts."""
        self._states.update(kept.states)
        index = min(kept.states)
        before = self._before.get((index, first))
        if before is not None:
            work = Work(**{f.name: getattr(before.work, f.name) + getattr(kept.work, f.name) for f in fields(Work)})
            kept = replace(kept, work=work, device_seconds=before.device_seconds + kept.device_seconds)
        self._before[index, kept.step] = replace(kept, states={})

    def _note_step(self, rows: Sequence[Row], reached: int) -> None:
        """A chunk has begun, or made a step."""
        run = self.run
        if not self.started:
            run.add_timings(queue=max(1e-6, self._clock() - run.submitted))
            self._sink([Started(run.timings.queue_ms)])
        for row in rows:
            if row.phase is Phase.STEP:
                row.step = max(row.step, reached)
        live = run.live_rows()
        slowest = min((r.step for r in live), default=0)
        if slowest > run.reported_step:
            run.reported_step = slowest
            self._sink([Stepped(slowest, run.spec.steps_made, len(live), run.progress)])

    def _apply(self, delivery: Delivery) -> None:
        """Take in the rows of a segment."""
        run, result = self.run, delivery.result
        if not self.started:
            self._note_step((), 0)
        run.texts = run.texts or EncodedTexts((), None, result.query, result.notices)
        run.left_out.update(result.left_out)
        run.member_queries.update(result.member_queries)
        made: list[SegmentDone | Kept] = [result]
        if (before := self._before.get((min(row.index for row in result.rows), delivery.step))) is not None:
            made.append(before)
        for part in made:
            run.device_seconds += part.device_seconds
            run.add_work(**{field.name: getattr(part.work, field.name) for field in fields(Work)})
        self.calls_made = result.calls_made
        self._note_step([run.rows[each.index] for each in result.rows], result.rows[0].step)
        self._sink([self._take(row, delivery) for row in result.rows])

    def _take(self, given: RowResult, delivery: Delivery) -> Update:
        run, row = self.run, self.run.rows[given.index]
        row.step, row.score, row.embedding = given.step, given.score, given.embedding
        row.stored_latent, row.guidance_gap = given.stored_latent, given.guidance_gap
        row.member_embeddings = dict(given.members)
        self._states.pop(given.index, None)
        self._homes.pop(given.index, None)
        if given.finished:
            row.phase = Phase.DONE
            run.keep_image(row, given.image)
            return Finished(row.index, given.score, run.progress, given.image)
        row.phase = Phase.AT_CHECKPOINT
        row.predicted_scores[given.step] = given.predicted_score
        if given.state is not None:
            self._states[given.index] = given.state
        else:
            self._homes[given.index] = delivery.worker
        return Previewed(row.index, given.step, given.score, given.guidance_gap, given.image, given.embedding)

    def _settle_checkpoint(self) -> None:
        """Prune once all live rows are at a checkpoint."""
        run = self.run
        dropped = apply_checkpoint(run)
        for row in dropped:
            self._states.pop(row.index, None)
        if dropped:
            at, live = dropped[0].step, len(run.live_rows())
            self._sink([Pruned(tuple(r.index for r in dropped), at, live, run.progress)])


def _slowest(one: Timings, other: Timings) -> Timings:
    """The longer time of each stage: segments of one leg run at the same time."""
    return Timings(**{f.name: max(getattr(one, f.name), getattr(other, f.name)) for f in fields(Timings)})
