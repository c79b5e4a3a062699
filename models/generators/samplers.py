"""Schedules of a diffusers model: its samplers, and the table of each.

Owns the wrapping of scheduler objects as solvers, and the sampler names. A scheduler lives only while it is probed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import diffusers
import numpy as np
import torch

from models.errors import ModelUnsupported
from models.generators.solver_coefficients import SolverStep, Vector, probe, quadratic_times
from models.protocols import QUADRATIC, Schedule

log = logging.getLogger(__name__)

_CLASSES = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    QUADRATIC: diffusers.DPMSolverMultistepScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
}
_BY_SIGMA = (diffusers.EulerDiscreteScheduler, diffusers.EulerAncestralDiscreteScheduler)
_NEAREST = {
    "EulerDiscreteScheduler": "euler",
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "dpmpp_2m",
    "LMSDiscreteScheduler": "dpmpp_2m",
    "DEISMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "dpmpp_2m",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "HeunDiscreteScheduler": "euler",
    "KDPM2DiscreteScheduler": "euler",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
}
_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
_TRIAL_STEPS = 4
_CACHED_TABLES = 128


class DiffusersSolver:
    """A diffusers scheduler at a number of steps, on vectors."""

    def __init__(self, scheduler: Any, steps: int, times: Sequence[int] | None = None) -> None:
        """The scheduler's own spacing of the steps, or `times`."""
        self._scheduler = scheduler
        self._ancestral = isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler)
        if times is None:
            scheduler.set_timesteps(steps, device="cpu")
        else:
            scheduler.set_timesteps(timesteps=list(times), device="cpu")
        if isinstance(scheduler, _BY_SIGMA):  # float32 rounds differences of large sigmas badly
            scheduler.sigmas = scheduler.sigmas.double()
        self._entries = [self._enter(step) for step in range(len(scheduler.timesteps))]
        self._begin(0)
        self.times = [float(t) for t in scheduler.timesteps]

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

        The model output is float64, so the scheduler computes and draws its noise in float64.
        """
        after = self._scheduler.step(
            torch.from_numpy(output),
            self._scheduler.timesteps[step],
            torch.from_numpy(state),
            generator=torch.Generator().manual_seed(step),
        )
        x0 = getattr(after, "pred_original_sample", None)
        x0 = self._scheduler.model_outputs[-1] if x0 is None else x0
        noise = np.zeros_like(state)
        if self._ancestral:
            same = torch.Generator().manual_seed(step)
            noise = torch.randn(state.shape, generator=same, dtype=torch.float64).numpy()
        return SolverStep(np.asarray(after.prev_sample, np.float64), np.asarray(x0, np.float64), noise)

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

    `samplers` are the names that work; `default` is the nearest one to the model's own scheduler. Raises
    ModelUnsupported if that scheduler has no near one.
    """

    def __init__(self, scheduler: Any) -> None:
        self._config: Mapping[str, Any] = dict(scheduler.config)
        self.prediction_type = str(self._config.get("prediction_type", "epsilon"))
        self.max_steps = int(self._config.get("num_train_timesteps", 1000))
        self._table = lru_cache(_CACHED_TABLES)(self._probe)
        self.samplers = tuple(name for name in _CLASSES if self._is_supported(name))
        own = type(scheduler).__name__
        if _NEAREST.get(own) not in self.samplers:
            raise ModelUnsupported(f"no supported sampler is near the model's scheduler {own}")
        self.default = _NEAREST[own]

    def __call__(self, sampler: str, steps: int, width: int, height: int) -> Schedule:  # noqa: ARG002
        """The table of a sampler, which is the same at every size.

        Raises ValueError for an unknown sampler or steps outside 1..max_steps.
        """
        if sampler not in _CLASSES:
            raise ValueError(f"unknown sampler {sampler!r}; use one of {', '.join(self.samplers)}")
        if not 1 <= steps <= self.max_steps:
            raise ValueError(f"`steps` must be 1..{self.max_steps}, not {steps}")
        return self._table(sampler, steps)

    def _probe(self, sampler: str, steps: int) -> Schedule:
        scheduler = _CLASSES[sampler]
        config = {**self._config, **_overrides(sampler, self._config)}
        times = quadratic_times(steps, self.max_steps) if sampler == QUADRATIC else None
        return probe(sampler, lambda: DiffusersSolver(scheduler.from_config(config), steps, times))

    def _is_supported(self, sampler: str) -> bool:
        try:
            self._table(sampler, _TRIAL_STEPS)
        except (ValueError, NotImplementedError) as error:
            log.warning("the sampler %s is disabled: %s", sampler, error)
            return False
        return True


def _overrides(sampler: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config changes that a sampler's name implies.

    Latents are clipped only if the config says so. Raises ValueError for dynamic thresholding.
    """
    if config.get("thresholding"):
        raise ValueError("dynamic thresholding is not linear")
    if sampler == "dpmpp_2m":
        return {"algorithm_type": "dpmsolver++", "solver_order": 2}
    if sampler == QUADRATIC:
        return {"algorithm_type": "dpmsolver++", "solver_order": 1, **dict.fromkeys(_SPACINGS, False)}
    return {"clip_sample": config.get("clip_sample", False)} if sampler == "ddim" else {}
