"""Schedules of a diffusers model: its samplers, and the table of each.

Owns the wrapping of scheduler objects as solvers, and the sampler names. A scheduler lives only while it is probed.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import diffusers
import numpy as np
import torch

from models.errors import ModelUnsupported
from models.generators.pipeline_facts import scheduler_name
from models.generators.solver_coefficients import SolverStep, Vector, probe, quadratic_times
from models.protocols import QUADRATIC, Schedule

log = logging.getLogger(__name__)

_CLASSES = {
    "euler": "EulerDiscreteScheduler",
    "ddim": "DDIMScheduler",
    QUADRATIC: "DPMSolverMultistepScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
"""Samplers of every model, by their names on the wire."""

_BY_SIGMA = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
_NEAREST = {
    "HeunDiscreteScheduler": "euler",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "dpmpp_2m",
    "LMSDiscreteScheduler": "dpmpp_2m",
    "DEISMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "DPMSolverSDEScheduler": "dpmpp_2m_sde",
    "KDPM2DiscreteScheduler": "euler",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
}
"""The nearest of `_CLASSES` for schedulers whose own steps fit no table."""

_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
_DISTILLED_STEPS = 50
_TRIAL_STEPS = 4
_MAX_SECOND_ORDER_NOISE = 1000.0
"""Largest first sigma of a second-order sampler.

Its first step averages two slopes over the whole way from there, so a nearly infinite sigma leaves no image.
"""
_CACHED_TABLES = 128


class DiffusersSolver:
    """A diffusers scheduler at a number of steps, on vectors."""

    def __init__(self, scheduler: Any, steps: int, times: Sequence[int] | None = None, first: int = 0) -> None:
        """The scheduler's own spacing of the steps, or `times`.

        `first` is the call at which it begins.
        """
        self._scheduler = scheduler
        self._draws = "generator" in inspect.signature(scheduler.step).parameters
        if times is None:
            scheduler.set_timesteps(steps, device="cpu")
        else:
            scheduler.set_timesteps(timesteps=list(times), device="cpu")
        if type(scheduler).__name__ in _BY_SIGMA:  # float32 rounds differences of large sigmas badly
            scheduler.sigmas = scheduler.sigmas.double()
        self._entries = [self._enter(step) for step in range(len(scheduler.timesteps))]
        self._begin(first)
        self.times = [float(t) for t in scheduler.timesteps]
        self._predicted: tuple[Any, float] | None = None

    @property
    def noise_scale(self) -> float:
        """Standard deviation of the first state."""
        return float(self._scheduler.init_noise_sigma)

    def scale(self, step: int, state: Vector) -> Vector:
        """The state as the denoiser's input."""
        scaled = self._scheduler.scale_model_input(torch.from_numpy(state), self._scheduler.timesteps[step])
        return np.asarray(scaled, np.float64)

    def entry(self, step: int) -> tuple[float, float]:
        """Factors of a finished latent and of unit noise in the state before `step`."""
        return self._entries[step]

    def step(self, step: int, state: Vector, output: Vector) -> SolverStep:
        """One step, in float64.

        The model output is float64, so most schedulers compute and draw their noise in float64.
        """
        scheduler, time = self._scheduler, self._scheduler.timesteps[step]
        x, m = torch.from_numpy(state)[None], torch.from_numpy(output)[None]
        random = torch.Generator().manual_seed(step)
        unused = random.get_state()
        self._correct(x)
        after = scheduler.step(m, time, x, **({"generator": random} if self._draws else {}))
        noise = np.zeros_like(state)
        if not torch.equal(random.get_state(), unused):
            single = isinstance(scheduler, diffusers.DPMSolverMultistepScheduler)
            kind, same = torch.float32 if single else torch.float64, torch.Generator().manual_seed(step)
            noise = torch.randn(state.shape, generator=same, dtype=kind).double().numpy()
        x0 = x0_estimate(scheduler, after, {"model_output": m, "sample": x, "timestep": time})
        self._predict(after.prev_sample)
        return SolverStep(np.asarray(after.prev_sample[0], np.float64), np.asarray(x0[0], np.float64), noise)

    def _correct(self, x: Any) -> None:
        """Let UniPC remember the corrected state that would have led to this one.

        It corrects the last state, not the given one, so a table needs them to agree.
        """
        if self._predicted is not None:
            predicted, factor = self._predicted
            self._scheduler.last_sample = self._scheduler.last_sample + (x - predicted) / factor

    def _predict(self, predicted: Any) -> None:
        scheduler = self._scheduler
        if isinstance(scheduler, diffusers.UniPCMultistepScheduler):
            place = slice(scheduler.step_index - 1, scheduler.step_index + 1)
            _, (sigma, after) = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[place])
            self._predicted = (predicted, float(after / sigma)) if after else None

    def _enter(self, step: int) -> tuple[float, float]:
        """Probe how the scheduler mixes latents and noise, before any step is made.

        Its image-to-image pipelines mix in the same way.
        """
        self._begin(step)
        latent, noise = torch.eye(2, dtype=torch.float64)[:, None]
        mixed = self._scheduler.add_noise(latent, noise, self._scheduler.timesteps[step : step + 1])[0]
        return float(mixed[0]), float(mixed[1])

    def _begin(self, step: int) -> None:
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(step)


class DiffusersSamplers:
    """All tables that a model's scheduler config allows.

    `samplers` are the names that work; `second_order` those with two calls per step. `default` is the model's own
    scheduler, or the nearest one if its own steps fit no table. Raises ModelUnsupported if there is none.
    """

    def __init__(self, scheduler: Any) -> None:
        self._config: Mapping[str, Any] = dict(scheduler.config)
        self._own = type(scheduler)
        self.prediction_type = str(self._config.get("prediction_type", "epsilon"))
        self.max_steps = int(self._config.get("num_train_timesteps", 1000))
        self._table = lru_cache(_CACHED_TABLES)(self._probe)
        self._scheduler = lru_cache(None)(self._made)
        own = scheduler_name(scheduler)
        tried = dict.fromkeys((*_CLASSES, own))
        self.samplers = tuple(name for name in tried if self._is_supported(name))
        self.default = own if own in self.samplers else _NEAREST.get(self._own.__name__, "")
        if self.default not in self.samplers:
            raise ModelUnsupported(f"no supported sampler is near the model's scheduler {self._own.__name__}")
        if self.default != own:
            log.warning("the model's scheduler %s is not used: %s is the default sampler", own, self.default)
        self.second_order = tuple(name for name in self.samplers if self._table(name, _TRIAL_STEPS, 0).starts)

    def __call__(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """The table of a sampler, which is the same at every size.

        Raises ValueError for an unknown sampler or unsupported steps.
        """
        if sampler not in self.samplers:
            raise ValueError(f"unknown sampler {sampler!r}; use one of {', '.join(self.samplers)}")
        distilled = self._config.get("original_inference_steps", _DISTILLED_STEPS)
        limit = min(self.max_steps, distilled) if sampler in {"lcm", "tcd"} else self.max_steps
        if not 1 <= steps <= limit:
            raise ValueError(f"`steps` must be 1..{limit} with the sampler {sampler}, not {steps}")
        return self._table(sampler, steps, 0)

    def begun(self, schedule: Schedule, first: int) -> Schedule:
        """The same schedule for a candidate that begins at row `first`.

        It differs for samplers that look back further than one step.
        """
        return schedule if schedule.older is None else self._table(schedule.sampler, schedule.steps, first)

    def _probe(self, sampler: str, steps: int, first: int) -> Schedule:
        scheduler = self._scheduler(sampler)
        times = quadratic_times(steps, self.max_steps) if sampler == QUADRATIC else None
        found = probe(
            sampler,
            lambda: DiffusersSolver(copy.deepcopy(scheduler), steps, times, first),
            first,
            reach=2 if sampler == "unipc" else 1,
        )
        if scheduler.order == 1:
            return found
        if found.noise_scale > _MAX_SECOND_ORDER_NOISE:
            raise ValueError(f"the first sigma, {found.noise_scale:.0f}, is too large for a second-order sampler")
        return replace(found, starts=tuple(min(scheduler.order * step, found.calls) for step in range(steps + 1)))

    def _made(self, sampler: str) -> Any:
        """A scheduler of this sampler, with what it takes of the model's config."""
        kind = getattr(diffusers, _CLASSES[sampler]) if sampler in _CLASSES else self._own
        config = {**self._config, **_overrides(sampler, self._config)}
        taken = inspect.signature(kind.__init__).parameters
        kept = {*taken, "_use_default_values"}
        return kind.from_config({name: value for name, value in config.items() if name in kept})

    def _is_supported(self, sampler: str) -> bool:
        try:
            return self._table(sampler, _TRIAL_STEPS, 0).steps == _TRIAL_STEPS
        except (ValueError, NotImplementedError, ImportError) as error:
            log.info("the sampler %s is not offered: %s", sampler, error)
            return False


def tabled(scheduler: Any) -> Any:
    """The scheduler that native loops use instead of this one.

    It is this one if its steps fit a table, else the nearest, or this one if there is none.
    """
    try:
        known = DiffusersSamplers(scheduler)
    except ModelUnsupported:
        return scheduler
    return scheduler if known.default == scheduler_name(scheduler) else known._scheduler(known.default)


def _overrides(sampler: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config changes that a sampler's name implies.

    Latents are clipped only if the config says so. Raises ValueError for dynamic thresholding.
    """
    if config.get("thresholding"):
        raise ValueError("dynamic thresholding is not linear")
    if sampler in {"dpmpp_2m", "dpmpp_2m_sde"}:
        return {"algorithm_type": "sde-dpmsolver++" if "sde" in sampler else "dpmsolver++", "solver_order": 2}
    if sampler == QUADRATIC:
        return {"algorithm_type": "dpmsolver++", "solver_order": 1, **dict.fromkeys(_SPACINGS, False)}
    if sampler == "unipc":
        return {"solver_order": min(2, config.get("solver_order", 2)), "predict_x0": True}
    return {"clip_sample": config.get("clip_sample", False)} if sampler == "ddim" else {}


def x0_estimate(scheduler: Any, result: Any, arguments: Mapping[str, Any]) -> Any:
    """The x0 estimate of the step that a scheduler just made.

    `result` is what `step` returned for `arguments`. Exact for flow matching, and if the step returns or remembers an
    estimate. For other schedulers it is computed from the prediction type.
    """
    output, sample = arguments["model_output"], arguments["sample"]
    name = type(scheduler).__name__
    if name.startswith("FlowMatch"):
        sigma = scheduler.sigmas[max(0, (scheduler.step_index or 1) - 1)]
        return (sample - sigma * output).to(sample.dtype)
    returned = result[1] if len(result) > 1 else None
    if isinstance(returned, torch.Tensor) and returned.shape == sample.shape and name != "TCDScheduler":
        return returned
    config = scheduler.config
    remembers = "dpmsolver++" in str(config.get("algorithm_type")) or config.get("predict_x0")
    outputs = getattr(scheduler, "model_outputs", None)
    if remembers and outputs and outputs[-1] is not None:
        return outputs[-1]
    return _converted(scheduler, output, sample, arguments["timestep"])


def _converted(scheduler: Any, output: Any, sample: Any, time: Any) -> Any:
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        return sample
    if output.shape[1] == 2 * sample.shape[1]:
        output = output[:, : sample.shape[1]]
    alpha = alphas[int(torch.as_tensor(time).flatten()[0])].to(sample.device)
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return signal * sample - noise * output
    return (sample - noise * output) / signal
