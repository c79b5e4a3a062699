"""The engine's loop body: `EngineCore.tick()` makes one device call for rows.

Owns the model calls and their effect on the rows. `scheduler` chooses the rows, `local` provides the thread.
Synchronous, no threads, no asyncio; the clock is injected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TypeAlias

from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.latent_codec import decode_init_latents
from app.engine.members.panel import Panel
from app.engine.members.progress import advance_rows, apply_checkpoint
from app.engine.members.rows import score_rows
from app.engine.ordered import orders
from app.engine.ordered.orders import Orders
from app.engine.protocols import Cancelled, Failed, Finished, Previewed, Pruned, Started, Stepped, Succeeded, Update
from app.engine.pruning.calibration import estimate_embedding, predict_score
from app.engine.ranking.scoring import score_images
from app.engine.refusals import adapted, out_of_memory, refusals
from app.engine.scheduler import CallKind, CallPlan, Scheduler
from app.engine.state import ActiveGeneration, Phase, Row
from app.engine.steering.calls import find_aim, steer_rows
from app.engine.texts.encoding import encode_prompts, encode_ranking
from app.engine.warmup import Report, Warmup, silent
from app.errors import EngineFailed, FrontrunnerError
from models.protocols import Embedder, Models, OutOfMemory, Pixels, Schedule, StepwiseGenerator, to_host
from models.protocols.image_inputs import ImageInputs
from models.protocols.narrow import CallCounts

log = logging.getLogger(__name__)

OneOffCall: TypeAlias = Callable[[StepwiseGenerator, Embedder], None]
"""A one-off device call; it delivers its own result or error."""

SMOOTHING = 0.3
"""Weight of the newest generation in the moving average of seconds per candidate."""


NO_SCORES = "every candidate has a score that is not a number"


class TooManyFailures(RuntimeError):
    """Too many consecutive device calls failed; presumably the device is at fault."""


class EngineCore:
    """The generations on one device. Engine thread only."""

    def __init__(
        self,
        models: Models,
        config: EngineConfig,
        clock: Callable[[], float] = perf_counter,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Build a core; another thread calls `wake` when ordered images come."""
        self._generator = models.generator
        self._scorer = models.scorer
        self._steering = models.steering
        self._panel = Panel(models)
        self._orders = Orders(models.generator, wake)
        self._waiting = False
        known = models.calibration
        self._calibration = known if known and known.matches(models.generator.info, models.scorer.info) else None
        if known is not None and self._calibration is None:
            log.warning(
                "pruning auto is off: the calibration was measured with other weights; run `frontrunner calibrate`"
            )
        self._config = config
        self._clock = clock
        self._scheduler = Scheduler(config)
        self._calls: list[OneOffCall] = []
        self._updates: list[tuple[str, Update]] = []
        self._last_was_call = False
        self._consecutive_failures = 0
        self.live = 0
        self.started: set[str] = set()
        self.rows_stepped = 0
        self.denoiser_calls = 0
        self.stage_seconds: dict[str, float] = dict.fromkeys(CallKind, 0.0)
        self.seconds_per_candidate = 0.0
        self.costs = self._scheduler.costs

    @property
    def idle(self) -> bool:
        """Whether a tick would do nothing, before a message or an ordered image comes."""
        return not (self._calls or self._updates or (not self._scheduler.is_empty and not self._waiting))

    def submit(
        self, spec: GenerationSpec, submitted: float, *, exclusive: bool = False, inputs: ImageInputs | None = None
    ) -> None:
        """Add a generation that arrived at `submitted` (seconds of this clock)."""
        guided = self._generator.info.is_guided(spec.guidance_scale)
        keeps, self._waiting = self._panel.keeps_field(spec), False
        self._scheduler.add(ActiveGeneration(spec, submitted, exclusive, inputs, guided, keeps))

    def cancel(self, generation_id: str) -> None:
        """Drop a generation and its rows. Ignores unknown ids."""
        for run in self._scheduler.generations:
            if run.spec.id == generation_id:
                self._end(run, Cancelled())

    def resume(self) -> None:
        """Take ordered images at the next tick: call it after `wake`."""
        self._waiting = False

    def remote_calls(self) -> CallCounts:
        """The calls of a remote generator so far. Call from any thread."""
        return self._orders.calls()

    def close(self) -> None:
        """Free what the generator holds outside this process."""
        self._orders.close()

    def add_call(self, call: OneOffCall) -> None:
        """Queue a one-off device call.

        It alternates with planned calls, so that neither starves.
        """
        self._calls.append(call)

    def tick(self) -> list[tuple[str, Update]]:
        """Make one device call; return its updates as (generation id, update), in order.

        Raises TooManyFailures after `max_failing_ticks` consecutive failed calls. Errors of the loop itself propagate.
        """
        self._take_ordered()
        plan = None if self._calls and not self._last_was_call else self._scheduler.plan()
        self._last_was_call = plan is None and bool(self._calls)
        if self._last_was_call:
            self._calls.pop(0)(self._generator, self._scorer)
        elif plan is not None:
            self._run(plan)
        self._waiting = plan is None and not self._last_was_call and self._orders.are_open
        self.live = self._scheduler.live_rows
        updates, self._updates = self._updates, []
        return updates

    def _run(self, plan: CallPlan) -> None:
        """Make the call of a plan. An error fails only the generations in the plan."""
        started = self._clock()
        self._start(plan, started)
        try:
            self._execute(plan)
        except OutOfMemory:
            if not self._scheduler.lower_ceiling(plan):
                self._fail(plan, out_of_memory(plan.kind))
        except FrontrunnerError as error:
            self._fail(plan, error)
        except Exception as error:
            log.exception("device call failed", extra={"kind": plan.kind})
            self._fail(plan, EngineFailed(f"{plan.kind} failed on the device ({type(error).__name__})"))
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._config.max_failing_ticks:
                raise TooManyFailures(f"{self._consecutive_failures} device calls failed in a row") from error
        else:
            self._consecutive_failures = 0
            self._scheduler.record_fit(plan)
            self._account(plan, self._clock() - started)
            self._end_completed(plan.generations)

    def measure(self, report: Report = silent) -> None:
        """Measure device costs at the default size in about `warmup_s`.

        Sets `costs` and updates the scheduler. `report` is called with each part as it begins. Raises
        OutOfDeviceMemory when a single row does not fit.
        """
        if self._orders.whole_images:
            return
        timed = Warmup(self._generator, self._scorer, self._config, self._clock, report).run()
        self._scheduler.set_costs(timed[CallKind.STEP], preview=timed[CallKind.PREVIEW], finish=timed[CallKind.FINISH])
        self.costs = self._scheduler.costs

    def _learn_cost(self, plan: CallPlan, seconds: float) -> None:
        """Learn the cost of the call if its rows have the default size and guidance."""
        info = self._generator.info
        usual = (info.width, info.height, info.is_guided(info.guidance_scale))
        rows = plan.size or len(plan.rows)
        if not rows or seconds <= 0:
            return
        alike = all(
            (run.spec.width, run.spec.height, run.guided) == usual and not run.spec.loras for run in plan.row_counts
        )
        if alike and self._scheduler.note(plan.kind, rows, seconds) and self._scheduler.costs.moved(self.costs):
            self.costs = self._scheduler.costs

    # one method per kind of device work

    def _execute(self, plan: CallPlan) -> None:
        if plan.kind is CallKind.ENCODE:
            assert plan.generation is not None
            if plan.generation.texts is None:
                self._encode(plan.generation)
            self._make_wave(plan.generation)
        elif plan.kind is CallKind.STEP:
            self._step(plan)
        elif plan.kind is CallKind.STEER:
            steer_rows(self._steering, plan.rows, plan.size)
        elif plan.kind is CallKind.PREVIEW:
            self._preview(plan)
        else:
            self._finish(plan)

    def _encode(self, run: ActiveGeneration) -> None:
        """Encode texts, and make the schedule."""
        spec = run.spec
        with refusals():
            run.schedule = self._generator.schedule(spec.sampler, spec.steps, spec.width, spec.height)
            if spec.masked and spec.start is not None:  # refuse it before the first step
                self._generator.add_noise(decode_init_latents(spec.start), spec.seed, run.schedule, 0)
        steered = run.guided and self._generator.info.negative_prompts
        with adapted(self._generator, spec.loras):
            prompts, negative = encode_prompts(self._generator, spec, steered=steered)
        run.texts = encode_ranking(self._scorer, self._generator, spec, prompts, negative, steered=steered)
        run.aim = find_aim(self._steering, spec, run.texts.query)
        self._panel.prepare(run)

    def _make_wave(self, run: ActiveGeneration) -> None:
        """Create the next rows of a generation: all, or one wave."""
        spec, first = run.spec, len(run.rows)
        assert run.schedule is not None
        run.reported_step, run.needs_rows = 0, False
        for index in range(first, min(spec.n_candidates, first + (spec.wave or spec.n_candidates))):
            run.rows.append(self._row(run, run.schedule, index))
        if self._orders.whole_images:
            with refusals():
                self._orders.place(run, [r for r in run.rows[first:] if r.phase is Phase.ORDERED], self._clock())
            return
        run.add_work(rows_unpruned=run.calls_made * (len(run.rows) - first))

    def _row(self, run: ActiveGeneration, schedule: Schedule, index: int) -> Row:
        """Return a candidate before its first step: noise, a noised or a finished image."""
        spec = run.spec
        seed = spec.candidate_seed(index)
        if self._orders.whole_images and spec.steps_made > 0:
            return Row(run, index, seed, phase=Phase.ORDERED)
        if spec.start is None or spec.steps_made == spec.steps:
            return Row(run, index, seed, self._generator.noise(seed, spec.width, spec.height, schedule))
        array = decode_init_latents(spec.start)
        if spec.steps_made == 0:
            return Row(run, index, seed, self._generator.load(array[None])[0], phase=Phase.FINISH)
        with refusals():
            latent = self._generator.add_noise(array, seed, schedule, run.first_call)
        return Row(run, index, seed, latent)

    def _step(self, plan: CallPlan) -> None:
        with adapted(self._generator, plan.rows[0].generation.spec.loras):
            latents = self._generator.step([r.denoiser_call() for r in plan.rows], plan.size)
        for row, latent in zip(plan.rows, latents, strict=True):
            row.latent = latent
        advance_rows(plan.rows)
        self.rows_stepped += len(plan.rows)
        self.denoiser_calls += 1
        for run, rows in plan.row_counts.items():
            run.add_work(rows_stepped=rows)
            live = run.live_rows()
            slowest = min([r.step for r in live])
            if slowest > run.reported_step:
                run.reported_step = slowest
                self._emit(run, Stepped(slowest, run.spec.steps_made, len(live), run.progress))

    def _preview(self, plan: CallPlan) -> None:
        pixels = self._score(plan, preview=True)
        gaps = self._generator.guidance_gaps([r.latent for r in plan.rows])
        for row, image, gap in zip(plan.rows, to_host(pixels), gaps, strict=True):
            assert row.score is not None
            assert row.embedding is not None
            row.phase, row.guidance_gap = Phase.AT_CHECKPOINT, float(gap)
            row.predicted_scores[row.step] = self._predicted_score(row)
            shown = Previewed(row.index, row.step, row.score, row.guidance_gap, image, row.embedding)
            self._emit(row.generation, shown)
        for run, rows in plan.row_counts.items():
            run.add_work(previews=rows)
            self._settle_checkpoint(run)

    def _settle_checkpoint(self, run: ActiveGeneration) -> None:
        """Prune a generation whose live rows are all at a checkpoint."""
        at, dropped = run.reported_step, apply_checkpoint(run)
        if dropped:
            self._store(dropped, preview=True)
            live = len(run.live_rows())
            self._emit(run, Pruned(tuple(r.index for r in dropped), at, live, run.progress))

    def _predicted_score(self, row: Row) -> float:
        """Return the final score that a preview predicts, up to a constant of the step."""
        schedule, known = row.generation.schedule, self._calibration
        assert schedule is not None
        assert row.generation.texts is not None
        assert row.embedding is not None
        if known is not None:
            known = known.of_steering(row.generation.spec.steering) or known
        at = (schedule.sampler, row.schedule_step, schedule.steps)
        estimated = estimate_embedding(known, row.embedding, *at)
        score = row.sort_score
        if estimated is not None:
            score = score_images(estimated, row.generation.texts.query)[0].score
        return predict_score(known, score, row.guidance_gap, *at)

    def _finish(self, plan: CallPlan) -> None:
        pixels = self._score(plan, preview=False)
        self._panel.judge(plan.rows, pixels, plan.size)
        self._store(plan.rows, preview=False)
        units = {run: run.units_done() for run in plan.generations}
        for row, image in zip(plan.rows, to_host(pixels), strict=True):
            run = row.generation
            assert row.score is not None
            units[run] += run.units - row.step
            row.phase = Phase.DONE
            run.keep_image(row, image)
            self._emit(run, Finished(row.index, row.score, run.share(units[run]), image))
        for run, rows in plan.row_counts.items():
            run.add_work(decodes=rows)
            run.needs_rows = not run.is_live and self._panel.needs_wave(run)

    def _take_ordered(self) -> None:
        """Give rows their ordered images; end generations whose last image was lost."""
        for run in self._orders.take():
            live = run.live_rows()
            if all(r.phase is not Phase.ORDERED for r in live):
                run.note_arrival(self._clock())
            if not live:
                latest = run.rows[-(run.spec.wave or len(run.rows)) :]
                run.needs_rows = any(r.phase is Phase.DONE for r in latest) and self._panel.needs_wave(run)
                self._end_completed([run])

    def _score(self, plan: CallPlan, *, preview: bool) -> Pixels:
        return score_rows(self._generator, self._scorer, plan, preview=preview)

    def _store(self, rows: Sequence[Row], *, preview: bool) -> None:
        """Move latents to the host, one by one, so that it works on a full device."""
        for row in rows:
            row.stored_latent, row.latent = self._generator.dump([row.latent], preview=preview)[0], None

    # the lifecycle of a generation

    def _start(self, plan: CallPlan, now: float) -> None:
        if plan.generation is not None and plan.generation.texts is None:
            self.started.add(plan.generation.spec.id)
            plan.generation.add_timings(queue=now - plan.generation.submitted)
            self._emit(plan.generation, Started(plan.generation.timings.queue_ms))

    def _account(self, plan: CallPlan, seconds: float) -> None:
        self._learn_cost(plan, seconds)
        self.stage_seconds[plan.kind] += seconds
        stage = "denoise" if plan.kind in {CallKind.STEP, CallKind.STEER} else str(plan.kind)
        for run in plan.generations:
            share = plan.row_counts[run] / len(plan.rows) if plan.rows else 1.0
            run.device_seconds += share * seconds
            run.add_timings(**{stage: seconds})

    def _end_completed(self, runs: Iterable[ActiveGeneration]) -> None:
        """End the generations of these whose last row is finished or lost."""
        for run in runs:
            if not run.rows or run.is_live or run.needs_rows:
                continue
            if not run.has_scores:
                self._end(run, Failed(orders.failure(run.rows) or EngineFailed(NO_SCORES)))
                continue
            run.add_timings(total=self._clock() - run.submitted)
            self._update_pace(run)
            orders.fill_lost(run.rows, self._scorer.info.dimensions)
            outcome = run.build_outcome(self._scorer.info, self._calibration.match if self._calibration else None)
            self._end(run, Succeeded(replace(outcome, notices=(*outcome.notices, *orders.notices(run.rows)))))

    def _update_pace(self, run: ActiveGeneration) -> None:
        """Update the mean seconds per candidate, scaled to the default number of steps."""
        if run.spec.steps_made == 0:
            return
        info = self._generator.info
        usual = info.steps * info.calls_per_step(info.sampler)
        steered = self.costs.steering_factor(run.calls_made, len(run.spec.steered_steps))
        pace = run.device_seconds / len(run.rows) * usual / run.calls_made / steered
        known = self.seconds_per_candidate or pace
        self.seconds_per_candidate = known + SMOOTHING * (pace - known)

    def _fail(self, plan: CallPlan, error: FrontrunnerError) -> None:
        for run in plan.generations:
            self._end(run, Failed(error))

    def _end(self, run: ActiveGeneration, update: Update) -> None:
        self._scheduler.remove(run)
        self._orders.cancel(run)
        self.started.discard(run.spec.id)
        run.rows = []
        self._emit(run, update)

    def _emit(self, run: ActiveGeneration, update: Update) -> None:
        self._updates.append((run.spec.id, update))
