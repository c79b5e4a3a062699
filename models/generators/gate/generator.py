"""Any text-to-image pipeline of diffusers as a `StepwiseGenerator`.

Each candidate runs the pipeline's own loop in a greenlet; their model calls are merged. Owns the answers to parked
pipelines, and the protocol. Runs and proxies are in `runs`, arguments in `stage`, merging in `calls`; loading is in
`pipelines`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.generators.adapters import Adapters
from models.generators.control import Net, controlled, modes
from models.generators.gate.calls import Call, part, together, zeros
from models.generators.gate.latents import Attempt, GateLatent, GateSchedule, flat_shape, likeliest
from models.generators.gate.packing import Packing, blended, probe
from models.generators.gate.runs import Finished
from models.generators.gate.scheduler_proxy import Blend, mixes, noised
from models.generators.gate.stage import CandidateRun, Request, Stage, decoder_of, pictures
from models.generators.gate.survey import UNGUIDED, Rehearsal, Survey
from models.generators.gradients.gate import GateDifferentiable
from models.generators.text_limits import Reader
from models.loras import Lora
from models.protocols import Conditioning, GeneratorInfo, Images, Latent, Pixels, Schedule, StepRow, Styles
from models.protocols.readings import ReadText, encode_as_read, read_as_is
from models.runtime.placement import DevicePlacement, memory_guard

_CACHED = 128
_CACHED_CONTROLS = 16
_CACHED_TEXTS = 256
_FORMS = 64


class PipelineGate:
    """A pipeline whose rows may be of any requests and at any steps.

    See `models.protocols.StepwiseGenerator`.
    """

    def __init__(
        self,
        pipe: Any,
        placement: DevicePlacement,
        *,
        id: str,
        revision: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        preview_decoder: Any | None = None,
        arguments: Mapping[str, Any] | None = None,
        nets: Mapping[str, Net] | None = None,
        adapters: Adapters | None = None,
        read: ReadText = read_as_is,
        styles: Styles | None = None,
    ) -> None:
        """Take a loaded pipeline, standard or modular.

        `defaults` may hold `steps`, `guidance_scale`, `width` and `height`. `preview_decoder` is an autoencoder of the
        same latent space. `arguments` are passed to each call of the pipeline. `nets` are ControlNets by kind. Makes
        one or two steps at the default size. Raises OutOfMemory, and ModelUnsupported for a pipeline that cannot run
        row by row.
        """
        self._placement = placement
        self._adapters = adapters or Adapters(pipe, None)
        self._stage = Stage(pipe, arguments, self._adapters.current)
        for module in self._stage.modules:
            module.requires_grad_(False)
        decoder = self._stage.decoder
        if decoder.dtype == torch.float16 and decoder.config.get("force_upcast"):
            decoder.to(torch.float32)  # else each decode would do it, during the runs of others
        self._answers: OrderedDict[Any, Any] = OrderedDict()
        self._reader = Reader(self._stage.components, self._stage.defaults)
        self._lengths: dict[Any, int] = {}
        self._encoded, self._read = lru_cache(_CACHED_TEXTS)(self._encode), read
        self._rehearsed = lru_cache(_CACHED)(partial(Rehearsal.of, self._stage, self._drive))
        self._packing = lru_cache(_CACHED)(self._find_packing)
        try:
            with memory_guard():
                survey = Survey(self._stage, self._drive, self._made, id, defaults or {})
        except (ValueError, IndexError) as error:
            raise ModelUnsupported(f"the pipeline refuses its own defaults: {error}") from error
        self._factor, self._brief = survey.factor, survey.brief
        self._info = survey.describe(placement, revision, self._reader.limit, preview_decoder)
        self._arguments, self._nets = arguments, nets or {}
        controls, loras = tuple(sorted(self._nets)), self._adapters.default
        self._info = replace(self._info, controls=controls, loras=loras, styles=styles)
        self._controlled = lru_cache(_CACHED_CONTROLS)(self._with_control)
        for each in self._info.controls:
            self._controlled((each,))
        self._preview_stage = self._stage
        if preview_decoder is not None:
            self._preview_stage = Stage(survey.with_decoder(pipe, preview_decoder), arguments)
            self._preview_stage.form = self._stage.form

    @property
    def info(self) -> GeneratorInfo:
        """Name, limits and defaults; constant."""
        return self._info

    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:  # noqa: ARG002
        """Texts in order; their encodings are cached for runs. Raises `OutOfMemory`.

        Texts of equal `length` reach the denoiser in tensors of one shape.
        """
        loras = self._adapters.active
        return encode_as_read(texts, self._read, lambda some: [self._encoded(text, loras) for text in some])

    def schedule(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The pipeline's steps at this size, cached. ValueError for what it refuses."""
        if sampler not in self._info.samplers:
            raise ValueError(f"unknown sampler {sampler!r}; use one of {', '.join(self._info.samplers)}")
        if steps < 1:
            raise ValueError(f"`steps` must be at least 1, not {steps}")
        with memory_guard(), np.errstate(divide="ignore", invalid="ignore"):
            seen = self._rehearsed(steps, width, height)
        if seen.size(self._factor) != (width, height):
            raise ValueError(f"the model makes {' x '.join(map(str, seen.size(self._factor)))}, not {width} x {height}")
        if seen.calls < steps or not np.isfinite(seen.times).all():
            raise ValueError(f"the model's scheduler cannot make {steps} steps")
        return GateSchedule.of(sampler, steps, seen.times, width, height)

    def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> GateLatent:  # noqa: ARG002
        """A candidate without noise yet.

        When it is stepped, the pipeline draws its noise from a CPU generator of this seed.
        """
        return GateLatent(width, height, seed)

    def add_noise(self, array: NDArray[np.float16], seed: int, schedule: Schedule, start: int) -> GateLatent:
        """A candidate that starts from an image.

        The pipeline's scheduler mixes image and noise when it is stepped. Raises ValueError if the pipeline does not
        support image to image.
        """
        assert isinstance(schedule, GateSchedule)
        if not mixes(self._stage.components["scheduler"]):
            raise ValueError(f"the sampler {schedule.sampler} cannot start from an image; omit the image")
        with memory_guard():
            self._packing(schedule.width, schedule.height)
        return GateLatent(schedule.width, schedule.height, seed, start, picture=array)

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        """Images as the decoder's own latents: the mode of a distribution, or the output."""
        height, width = pixels.shape[1:3]
        with memory_guard():
            like = self._rehearsed(self._brief, width, height).z
            vae = self._stage.decoder
            image = torch.from_numpy(pixels).to(self._placement.device).permute(0, 3, 1, 2) / 127.5 - 1.0
            image = image.unsqueeze(2) if like.ndim == 5 else image
            z = likeliest(vae.encode(image.to(like.dtype)))
            return np.asarray(z.reshape(len(pixels), *flat_shape(like)).to(torch.float16).cpu().numpy())

    def adapt(self, loras: tuple[Lora, ...]) -> None:
        """Use these adapters in the next calls of `encode` and `step`."""
        with memory_guard():
            self._adapters.use(loras)

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        """One step of each row, in as few denoiser calls as possible.

        Calls are padded to `size` rows. A row that is given again is stepped again. Raises `OutOfMemory`; then no row
        has stepped and all rows can be given again.
        """
        if not 0 < len(rows) <= size:
            raise ValueError(f"{len(rows)} rows cannot be padded to {size}; pass 1 to `size` rows")
        with memory_guard(self._placement):
            taken = [self._attempt(row) for row in rows]
            slots = [*taken, *[taken[-1]] * (size - len(rows))]
            while waiting := [attempt for attempt in slots if not attempt.complete]:
                self._answer(waiting)
            stepped: dict[int, Latent] = {}
            for row, attempt in zip(rows, taken, strict=True):
                if id(attempt) not in stepped:
                    stepped[id(attempt)] = self._stepped(row, attempt)
            return [stepped[id(attempt)] for attempt in taken]

    def guidance_gaps(self, latents: Sequence[Latent]) -> NDArray[np.float32]:
        """RMS difference of the last step's two predictions, float32 (B,); zero for one."""
        return np.asarray(
            [0.0 if each.guidance_gap is None else float(each.guidance_gap) for each in latents], np.float32
        )

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Pixels:
        """Latents of one size as uint8 (B, H, W, 3), their decoder calls merged."""
        with memory_guard():
            stages = [self._preview_stage if preview and each.x0 is not None else self._stage for each in latents]
            runs = [self._to_decoder(stage, each, preview) for stage, each in zip(stages, latents, strict=True)]
            while waiting := [run for run in runs if isinstance(run.event, Call)]:
                for run, result in self._made(waiting):
                    run.resume(result)
            return np.concatenate([pictures(run.event) for run in runs if isinstance(run.event, Finished)])

    def dump(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.float16]:
        """Host copy for storage: the decoder's input, float16 (B, C, h, w)."""
        with memory_guard():
            found = [self._z(latent, preview) for latent in latents]
            return np.stack([z.reshape(flat_shape(z)).to(torch.float16).cpu().numpy() for z in found])

    def load(self, arrays: NDArray[np.float16]) -> list[Latent]:
        """Finished latents from arrays of `dump`, for `decode`."""
        height, width = (side * self._factor for side in arrays.shape[-2:])
        with memory_guard():
            stacked = torch.from_numpy(np.ascontiguousarray(arrays)).to(self._placement.device, torch.float32)
            return [GateLatent(width, height, z=z, z0=z) for z in stacked]

    def differentiable(self) -> GateDifferentiable:
        """The way to images with gradients, through the pipeline's own decoder."""
        return GateDifferentiable(self._decoder_call, self._packing, self._placement)

    # steps

    def _attempt(self, row: StepRow) -> Attempt:
        """The run from this row's latent, at the first call of its step or complete."""
        latent, schedule = row.latent, row.schedule
        assert isinstance(latent, GateLatent)
        assert isinstance(schedule, GateSchedule)
        negative = row.negative.state if row.negative is not None and self._info.negative_prompts else None
        sizes = schedule.steps, latent.width, latent.height
        request = Request(row.prompt.state, negative, row.guidance_scale, *sizes, row.seed, row.inputs)
        key = request, row.step
        attempt = latent.attempt
        if attempt is None or attempt.key != key or attempt.run.lost:
            if row.step != latent.step:
                raise ValueError(f"a latent before step {latent.step} cannot make step {row.step}")
            run = self._started(request, latent, row.step, self._blend(row))
            attempt = Attempt(run, key, row.step + 1)
        attempt.begin(latent)
        while attempt.run.skipping:
            attempt.answer(self._unmade(attempt.call))
        latent.attempt = attempt
        return attempt

    def _blend(self, row: StepRow) -> Blend | None:
        """What the run of a row does to its samples."""
        if row.inpainting is None or self._stage.inpaints:
            return None
        assert isinstance(row.schedule, GateSchedule)
        packing = self._packing(row.latent.width, row.latent.height)
        return blended(row.inpainting, packing, row.schedule.calls)

    def _started(self, request: Request, latent: GateLatent, calls: int, blend: Blend | None) -> CandidateRun:
        """A run for this latent that skips the steps before it."""
        stage = self._stage_for(request)
        if calls == 0:
            return stage.run(request, blend=blend)
        if latent.memory is not None:
            remembered, x = latent.memory, latent.x

            def recalled(run: CandidateRun, scheduler: Any, first: Any) -> Any:  # noqa: ARG001
                run.recall(remembered)
                return x

            return stage.run(request, calls, recalled, blend)
        if latent.picture is None:
            raise ValueError(f"a latent without a run or an image cannot make step {latent.step}")
        picture = torch.from_numpy(latent.picture).to(self._placement.device)
        packed = self._packing(latent.width, latent.height).packed(picture)

        def begun(run: CandidateRun, scheduler: Any, first: Any) -> Any:  # noqa: ARG001
            return noised(scheduler, packed.to(first.dtype), first, calls)

        return stage.run(request, calls, begun, blend)

    def _stage_for(self, request: Request) -> Stage:
        kinds = tuple(each.kind for each in request.inputs.effective) if request.inputs is not None else ()
        return self._controlled(kinds) if kinds else self._stage

    def _with_control(self, kinds: tuple[str, ...]) -> Stage:
        """The pipeline with the ControlNets of these kinds; its models are shared."""
        nets = [self._nets[each] for each in kinds]
        stage = Stage(controlled(self._stage.pipe, nets), self._arguments, self._adapters.current, modes(nets))
        stage.form = self._stage.form
        return stage

    def _answer(self, waiting: Sequence[Attempt]) -> None:
        """Make the calls that these attempts wait for, then answer each of them."""
        mine = {id(attempt.run): attempt for attempt in waiting}
        for run, result in self._made([attempt.run for attempt in waiting]):
            mine[id(run)].answer(result)

    def _made(self, runs: Sequence[CandidateRun]) -> list[tuple[CandidateRun, Any]]:
        """The results of the calls that these runs wait for, one per run.

        Calls of one signature are merged. A run that is given twice takes part twice, as padding does. No run is
        resumed here.
        """
        groups: dict[Any, list[CandidateRun]] = {}
        for run in runs:
            assert isinstance(run.event, Call)
            groups.setdefault(run.event.signature, []).append(run)
        results: dict[int, tuple[CandidateRun, Any]] = {}
        for signature, group in groups.items():
            calls = [run.event for run in group if isinstance(run.event, Call)]
            rows = calls[0].rows
            whole = together(calls)
            for place, run in enumerate(group):
                answer = part(whole, place * rows, rows, rows * len(group))
                results.setdefault(id(run), (run, answer))
            self._remember(signature, zeros(results[id(group[0])][1], rows))
        return list(results.values())

    def _stepped(self, row: StepRow, attempt: Attempt) -> GateLatent:
        """The latent after a row's step; it holds the run, unless the run is done."""
        after = attempt.latent_after(row.latent, row.step + 1, steered=row.steered)
        row.latent.attempt = None
        if after.step < row.schedule.calls:
            after.memory = attempt.run.memory()
            after.attempt = Attempt(attempt.run, (attempt.key[0], after.step), after.step + 1)
        else:
            attempt.run.close()
        return after

    # calls that are not made

    def _unmade(self, call: Call) -> Any:
        """Zeros like this call's result; the first call of each signature is made."""
        known = self._answers.get(call.signature)
        if known is None:
            known = zeros(part(together([call]), 0, call.rows, call.rows), call.rows)
            self._remember(call.signature, known)
        return zeros(known, call.rows)

    def _remember(self, signature: Any, form: Any) -> None:
        self._answers[signature] = form
        self._answers.move_to_end(signature)
        while len(self._answers) > _FORMS:
            self._answers.popitem(last=False)

    def _drive(self, run: CandidateRun) -> Call | Finished:
        """Continue a run with all steps skipped, to its decoder or its end."""
        event = run.resume()
        while isinstance(event, Call) and not decoder_of(event):
            event = run.resume(self._unmade(event))
        assert isinstance(event, Call | Finished)
        return event

    # the way to the decoder

    def _to_decoder(self, stage: Stage, latent: GateLatent, preview: bool) -> CandidateRun:
        """A run parked at its decoder, with this latent as the decoder's input."""
        x, z = (latent.x0, latent.z0) if preview else (latent.x, latent.z)
        run = self._tail(stage, latent.width, latent.height, x)
        call = run.event
        assert isinstance(call, Call)
        name, own = next(iter(call.bound.arguments.items()))
        if z is not None and stage is self._stage:
            call.bound.arguments[name] = z.reshape(own.shape).to(own.dtype)
        elif x is None:
            raise ValueError("a latent without a step cannot be decoded")
        elif stage is self._stage:
            latent.z, latent.z0 = (latent.z, own) if preview else (own, latent.z0)
        return run

    def _tail(self, stage: Stage, width: int, height: int, x: Any) -> CandidateRun:
        """A brief run at its decoder; `x` is the last sample, None for its own noise."""
        seen = self._rehearsed(self._brief, width, height)
        enter = None if x is None else lambda _run, _scheduler, _first: x
        run = stage.run(Request("", None, UNGUIDED, self._brief, width, height, 0), seen.calls, enter)
        self._drive(run)
        return run

    def _decoder_call(self, width: int, height: int, x: Any = None) -> Call:
        """The call that decodes the sample `x`; None for any."""
        run = self._tail(self._stage, width, height, x)
        assert isinstance(run.event, Call)
        call = run.event
        run.close()
        return call

    def _z(self, latent: GateLatent, preview: bool) -> Any:
        if (known := latent.z0 if preview else latent.z) is None:
            self._to_decoder(self._stage, latent, preview).close()
            known = latent.z0 if preview else latent.z
        return known

    def _find_packing(self, width: int, height: int) -> Packing:
        def unpack(x: Any) -> Any:
            return next(iter(self._decoder_call(width, height, x).bound.arguments.values()))

        return probe(unpack, self._rehearsed(self._brief, width, height).first)

    # texts

    def _encode(self, text: str, loras: tuple[Lora, ...]) -> Conditioning:  # noqa: ARG002
        """Run the pipeline to its denoiser with this text and these adapters."""
        with memory_guard():
            run = self._stage.run(Request(text, None, UNGUIDED, self._brief, self._info.width, self._info.height, 0))
            event = run.resume()
            run.close()
        assert isinstance(event, Call)
        length = self._lengths.setdefault(event.signature, len(self._lengths) + 1)
        return Conditioning(text, length, self._reader.cut(text))
