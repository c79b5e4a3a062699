"""Schedules of a flow-matching pipeline: its own scheduler as a table.

There is one for each size and number of steps. The pipeline itself sets its scheduler up: it is called until it does
so, without a denoiser call. So a shift by size or by steps, and sigmas of its own, need no code here.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from models.errors import ModelUnsupported
from models.generators.pipeline_facts import scheduler_name
from models.generators.solver_coefficients import SolverStep, Vector, probe
from models.protocols import Schedule
from models.runtime.placement import memory_guard

_CACHED_TABLES = 128
_TRIAL_STEPS = 4


class _ScheduleSetError(Exception):
    """The pipeline has set its scheduler up."""


class FlowSolver:
    """A scheduler whose steps are set, on vectors."""

    noise_scale = 1.0

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._matching = hasattr(scheduler, "scale_noise")
        self._entries = [self._mixed(step) for step in range(len(scheduler.timesteps))]
        scheduler.set_begin_index(0)
        self.times = [float(t) for t in scheduler.timesteps]

    def scale(self, step: int, state: Vector) -> Vector:  # noqa: ARG002
        """The state itself, which is the denoiser's input."""
        return state

    def entry(self, step: int) -> tuple[float, float]:
        """Factors of a finished latent and of unit noise in the state before `step`."""
        return self._entries[step]

    def step(self, step: int, state: Vector, output: Vector) -> SolverStep:
        """One step, in the precision of the scheduler. No noise is drawn."""
        sample, prediction = torch.from_numpy(state), torch.from_numpy(output)
        after = self._scheduler.step(prediction, self._scheduler.timesteps[step], sample).prev_sample
        x0 = self._estimate(step, sample, prediction)
        return SolverStep(np.asarray(after, np.float64), np.asarray(x0, np.float64), np.zeros_like(state))

    def _estimate(self, step: int, sample: Any, prediction: Any) -> Any:
        if self._matching:
            return sample - self._scheduler.sigmas[step] * prediction
        return self._scheduler.model_outputs[-1]

    def _mixed(self, step: int) -> tuple[float, float]:
        self._scheduler.set_begin_index(step)
        latent, noise = torch.eye(2, dtype=torch.float64)[:, None]
        time = self._scheduler.timesteps[step : step + 1]
        if self._matching:
            mixed = self._scheduler.scale_noise(latent, time, noise)[0]
        else:
            mixed = self._scheduler.add_noise(latent, noise, time)[0]
        return float(mixed[0]), float(mixed[1])


class FlowSchedules:
    """The tables of a pipeline's own scheduler, which is its only sampler.

    `arguments` go into the pipeline's call; `empty` makes the encoding of the empty text. Raises ModelUnsupported for a
    scheduler whose steps are not linear, draw noise, or use more than one earlier step.
    """

    prediction_type = "flow"
    second_order: tuple[str, ...] = ()

    def __init__(self, pipe: Any, arguments: Mapping[str, Any], empty: Callable[[], Any]) -> None:
        self._pipe = copy.copy(pipe)
        self._arguments = arguments
        vars(self._pipe).update(encode_prompt=lambda *_, **__: empty(), _progress_bar_config={"disable": True})
        self._max_steps = int(pipe.scheduler.config.get("num_train_timesteps", 1000))
        self.default = scheduler_name(pipe.scheduler)
        self.samplers: tuple[str, ...] = (self.default,)
        self._table = lru_cache(_CACHED_TABLES)(self._probe)

    def check(self, width: int, height: int) -> None:
        """Raise ModelUnsupported if the scheduler has no table at this size."""
        try:
            self._table(_TRIAL_STEPS, width, height)
        except (ValueError, ArithmeticError, AttributeError, TypeError) as error:
            name = type(self._pipe.scheduler).__name__
            raise ModelUnsupported(f"the scheduler {name} needs FRONTRUNNER_GENERATOR_MODE=gate") from error

    def __call__(self, sampler: str, steps: int, width: int, height: int) -> Schedule:
        """The table at an image size in pixels.

        Raises ValueError for an unknown sampler, steps outside 1..max_steps, or a size that the pipeline refuses.
        """
        if sampler != self.default:
            raise ValueError(f"unknown sampler {sampler!r}; use {self.default}")
        if not 1 <= steps <= self._max_steps:
            raise ValueError(f"`steps` must be 1..{self._max_steps}, not {steps}")
        return self._table(steps, width, height)

    def begun(self, schedule: Schedule, first: int) -> Schedule:  # noqa: ARG002
        """The schedule itself."""
        return schedule

    def _probe(self, steps: int, width: int, height: int) -> Schedule:
        scheduler = self._set_up(steps, width, height)
        schedule = probe(self.default, lambda: FlowSolver(copy.deepcopy(scheduler)))
        if schedule.steps != steps:
            raise ValueError(f"the model's scheduler cannot make {steps} steps")
        return schedule

    def _set_up(self, steps: int, width: int, height: int) -> Any:
        """A copy of the scheduler, as the pipeline's call sets it up."""
        scheduler, pipe = copy.deepcopy(self._pipe.scheduler), copy.copy(self._pipe)
        set_timesteps = scheduler.set_timesteps

        @functools.wraps(set_timesteps)  # pipelines look for the names of its arguments
        def set_and_stop(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs | {"device": "cpu"})
            raise _ScheduleSetError

        scheduler.set_timesteps = set_and_stop
        vars(pipe)["scheduler"] = scheduler
        asked: dict[str, Any] = {"prompt": "", "num_inference_steps": steps, "width": width, "height": height}
        asked |= {"generator": torch.Generator(), "output_type": "latent"}
        try:
            with memory_guard(), np.errstate(all="ignore"):
                pipe(**asked, **self._arguments)
        except _ScheduleSetError:
            del scheduler.set_timesteps
            return scheduler
        raise ValueError("the pipeline sets no schedule")
