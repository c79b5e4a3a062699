"""A pipeline's size, steps, guidance and decoder, measured when it is loaded.

Owns `Rehearsal`, a run at one size without model calls, and the `GeneratorInfo` of a gated pipeline.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from models.errors import ModelUnsupported
from models.generators.gate.calls import Call
from models.generators.gate.runs import Finished
from models.generators.gate.scheduler_proxy import Stepped
from models.generators.gate.stage import CandidateRun, Request, Stage, decoder_of
from models.generators.pipeline_facts import default_size, scheduler_name, usual_steps
from models.protocols import GeneratorInfo, Guidance
from models.runtime.placement import DevicePlacement, fingerprint

Drive: TypeAlias = Callable[[CandidateRun], Call | Finished]
Made: TypeAlias = Callable[[Sequence[CandidateRun]], list[tuple[CandidateRun, Any]]]

UNGUIDED = 1.0
"""The largest guidance scale at which most pipelines make one prediction."""

_FAR = 10**9
_BRIEF = (1, 2, 4)
_SIZE_MULTIPLE = 8
_STEPS = 30
_GUIDANCE = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """A run at one size with all steps skipped.

    `calls` scheduler steps were requested, at `times`. `first` is the sample before them, `z` the decoder's input; both
    show shapes and types only.
    """

    calls: int
    times: tuple[float, ...]
    first: Any
    z: Any

    @classmethod
    def of(cls, stage: Stage, drive: Drive, steps: int, width: int, height: int) -> Rehearsal:
        """Rehearse. Raises ValueError if the pipeline refuses the arguments."""
        run = stage.run(Request("", None, UNGUIDED, steps, width, height, 0), _FAR)
        event = drive(run)
        if not isinstance(event, Call):
            raise ModelUnsupported("the pipeline decodes no latents; use a latent diffusion model")
        z = next(iter(event.bound.arguments.values()))
        run.close()
        return cls(run.scheduler.done, tuple(run.scheduler.times), run.scheduler._first, z)

    def size(self, factor: int) -> tuple[int, int]:
        """Width and height of the resulting image, in pixels."""
        return int(self.z.shape[-1]) * factor, int(self.z.shape[-2]) * factor


class Survey:
    """Examines a pipeline.

    `factor` is the side of a latent cell in pixels; `brief` is the smallest number of steps that works.
    """

    def __init__(self, stage: Stage, drive: Drive, made: Made, id: str, defaults: Mapping[str, Any]) -> None:
        self._stage = stage
        self._id = id
        own = int(stage.defaults.get("num_inference_steps") or _STEPS)
        usual = usual_steps(id, stage.pipe, own, self._own_guidance(), defaults)
        self.steps, self.guidance, self.defaults_from = usual
        width, height = default_size(stage.pipe, stage.defaults)
        self.width, self.height = int(defaults.get("width", width)), int(defaults.get("height", height))
        entries = self._make_a_step(made, max(self.guidance, 2.0))
        self.brief, seen = self._briefest(drive)
        self.factor = max(1, self.height // int(seen.z.shape[-2]))
        if seen.size(self.factor) != (self.width, self.height):
            raise ModelUnsupported(f"the model cannot make its own default size of {self.width} x {self.height}")
        self.guidance_kind: Guidance = "cfg" if entries > 1 else self._embedded()
        self.unguided_scale = UNGUIDED if entries == 1 else self._largest_unguided(made, entries)

    def describe(
        self, placement: DevicePlacement, revision: str | None, limit: int, preview: Any | None
    ) -> GeneratorInfo:
        """The generator's name, limits and defaults.

        `limit` is its text limit in tokens.
        """
        config = self._stage.components["scheduler"].config
        flow = "Flow" in type(self._stage.components["scheduler"]).__name__ or config.get("use_flow_sigmas")
        sampler = scheduler_name(self._stage.components["scheduler"])
        known = f"{revision or fingerprint(*self._stage.modules)}-gate"  # native loops store latents in another scale
        return GeneratorInfo(
            id=self._id,
            revision=known if preview is None else f"{known}+{fingerprint(preview)}",
            width=self.width,
            height=self.height,
            size_multiple=math.lcm(_SIZE_MULTIPLE, 2 * self.factor),
            max_size=2 * max(self.width, self.height),
            steps=self.steps,
            guidance_scale=self.guidance,
            sampler=sampler,
            samplers=(sampler,),
            token_limit=limit,
            prediction_type="flow" if flow else str(config.get("prediction_type", "epsilon")),
            device=str(placement.device),
            dtype=placement.dtype_name,
            guidance=self.guidance_kind,
            negative_prompts=self.guidance_kind == "cfg" and self._stage.reads_negative,
            unguided_scale=self.unguided_scale,
            second_order=(sampler,) if self._stage.components["scheduler"].order > 1 else (),
            defaults_from=self.defaults_from,
        )

    @staticmethod
    def with_decoder(pipe: Any, decoder: Any) -> Any:
        """The same pipeline with another autoencoder."""
        other = copy.copy(pipe)
        vars(other)["vae"] = decoder
        return other

    def _own_guidance(self) -> float:
        stage = self._stage
        if stage.guidance_name is not None:
            default = stage.defaults.get(stage.guidance_name)
            return _GUIDANCE if default is None else float(default)
        return float(getattr(stage.components.get("guider"), "guidance_scale", UNGUIDED))

    def _make_a_step(self, made: Made, guidance: float) -> int:
        """Make the first step of a run; returns the number of predictions.

        Learns the form of the scheduler's results.
        """
        run = self._stage.run(Request("", "", guidance, self.steps, self.width, self.height, 0))
        event, entries = run.resume(), 0
        while isinstance(event, Call):
            if decoder_of(event):
                raise ModelUnsupported("the pipeline makes no scheduler steps, so it cannot run row by row")
            entries += event.rows
            event = run.resume(made([run])[0][1])
        if not isinstance(event, Stepped):
            raise ModelUnsupported("the pipeline calls no known model, so it cannot run row by row")
        self._stage.form = run.scheduler.form
        run.close()
        return entries

    def _largest_unguided(self, made: Made, guided: int) -> float:
        """The largest scale with fewer than `guided` predictions; below 0 for none."""
        return next((scale for scale in (UNGUIDED, 0.0) if self._make_a_step(made, scale) < guided), -1.0)

    def _briefest(self, drive: Drive) -> tuple[int, Rehearsal]:
        for steps in (*_BRIEF, self.steps):
            try:
                with np.errstate(divide="raise", invalid="raise"):
                    seen = Rehearsal.of(self._stage, drive, steps, self.width, self.height)
                if seen.calls >= steps and np.isfinite(seen.times).all():
                    return steps, seen
            except (ValueError, IndexError, ArithmeticError, RuntimeError) as error:
                if steps == self.steps or isinstance(error, ModelUnsupported):
                    raise
        raise ModelUnsupported("the model's scheduler has no finite times at its default number of steps")

    def _embedded(self) -> Guidance:
        """Whether the denoiser's inputs differ between two guidance scales."""
        seen = []
        for scale in (2.0, 5.0):
            run = self._stage.run(Request("", None, scale, self.steps, self.width, self.height, 0))
            event = run.resume()
            assert isinstance(event, Call)
            seen.append([each for each in event.bound.arguments.values() if isinstance(each, torch.Tensor)])
            run.close()
        same = all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
        return "none" if same else "embedded"
