"""A watched scheduler: reports each step, and skips steps that are not needed.

Owns a scheduler's memory between two steps. Knows no greenlet.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from models.generators.samplers import x0_estimate

Blend: TypeAlias = Callable[[Any, Any, Any, int], Any]
"""See `WatchedScheduler`."""


@dataclass(frozen=True, slots=True, eq=False)
class Stepped:
    """One scheduler step, in the pipeline's own packing.

    The next sample and the x0 estimate.
    """

    x: Any
    x0: Any


@dataclass(frozen=True, slots=True)
class StepForm:
    """The result form of `scheduler.step` that a pipeline expects.

    A tuple of `length`, or an object of `kind`.
    """

    length: int = 1
    kind: Any = None

    @classmethod
    def of(cls, result: Any) -> StepForm:
        """The form of a real result."""
        return cls(len(result)) if isinstance(result, tuple) else cls(len(result), type(result))

    @staticmethod
    def replaced(result: Any, x: Any) -> Any:
        """A real result with another sample."""
        if isinstance(result, tuple):
            return x, *result[1:]
        return type(result)(**{**result, next(iter(result)): x})

    def holding(self, x: Any) -> Any:
        """A result of this form with x in each place."""
        if self.kind is None:
            return (x,) * self.length
        return self.kind(**dict.fromkeys(inspect.signature(self.kind).parameters, x))


class WatchedScheduler:
    """Behaves as a copy of the scheduler, except for `step`.

    The first `skip` steps are not made and return the sample unchanged. The last of them returns what `enter` makes of
    the scheduler and the first sample. `blend` changes the sample of each step that is made, given the scheduler, the
    sample, the first sample and the number of steps done. The result goes to `report`; what that returns
    replaces the sample, unless it is None.
    """

    def __init__(
        self,
        scheduler: Any,
        report: Callable[[Stepped], Any],
        form: StepForm,
        skip: int = 0,
        enter: Callable[[Any, Any], Any] | None = None,
        blend: Blend | None = None,
    ) -> None:
        own = copy.deepcopy(scheduler)
        self.__dict__.update(
            _own=own,
            _report=report,
            _skip=skip,
            _enter=enter,
            _blend=blend,
            _first=None,
            form=form,
            done=0,
            times=[],
        )
        self.__dict__["step"] = _watched(self, own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_own"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_own"], name, value)

    @property
    def skipping(self) -> bool:
        """Whether the next step is skipped."""
        return bool(self.done < self._skip)

    def _skipped(self, sample: Any) -> Any:
        if self.done == 0:
            self.__dict__["_first"] = sample
        self.__dict__["done"] += 1
        entering = self.done == self._skip and self._enter is not None
        return self.form.holding(self._enter(self._own, self._first) if entering else sample)

    def _made(self, result: Any, arguments: Mapping[str, Any]) -> Any:
        if self.done == 0:
            self.__dict__["_first"] = arguments["sample"]
        self.__dict__["form"] = StepForm.of(result)
        self.__dict__["done"] += 1
        x0 = x0_estimate(self._own, result, arguments)
        if self._blend is not None:
            result = StepForm.replaced(result, self._blend(self._own, result[0], self._first, self.done))
        changed = self._report(Stepped(result[0], x0))
        return result if changed is None else StepForm.replaced(result, changed)


def _watched(watched: WatchedScheduler, own: Any) -> Callable[..., Any]:
    """`step` of a scheduler, with its signature.

    Pipelines inspect which arguments it takes.
    """
    signature = inspect.signature(own.step)

    @functools.wraps(own.step)
    def step(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        if watched.skipping:
            watched.times.append(float(torch.as_tensor(arguments["timestep"]).flatten()[0]))
            return watched._skipped(arguments["sample"])
        return watched._made(own.step(*args, **kwargs), arguments)

    return step


def memory(scheduler: Any) -> dict[str, Any]:
    """A scheduler's attributes, with copied lists. Tensors never change in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in vars(scheduler).items()}


def moved_estimate(remembered: Mapping[str, Any], before: Any, after: Any) -> Mapping[str, Any]:
    """A memory with the x0 `after` in place of `before`.

    Multistep schedulers keep it in a list.
    """
    outputs = remembered.get("model_outputs")
    if not isinstance(outputs, list) or not outputs or outputs[-1] is not before:
        return remembered
    return {**remembered, "model_outputs": [*outputs[:-1], after]}


def recall(scheduler: Any, remembered: Mapping[str, Any]) -> None:
    """Restore what `memory` returned; this can be repeated."""
    vars(scheduler).update({name: list(each) if isinstance(each, list) else each for name, each in remembered.items()})


def mixes(scheduler: Any) -> bool:
    """Whether a scheduler can mix an image with noise, as image to image needs."""
    return hasattr(scheduler, "scale_noise") or hasattr(scheduler, "add_noise")


def noised(scheduler: Any, latent: Any, first: Any, step: int) -> Any:
    """The sample before `step` of a run that starts from an image.

    Moves the scheduler to that step. Mixed as diffusers' image-to-image pipelines do. `first` is the run's own first
    sample, whose noise is used. Only for schedulers that can, see `mixes`.
    """
    noise = first / float(getattr(scheduler, "init_noise_sigma", 1.0))
    time = scheduler.timesteps[step : step + 1]
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = None
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)
    if hasattr(scheduler, "scale_noise"):
        mixed = scheduler.scale_noise(latent, time, noise)
    else:
        mixed = scheduler.add_noise(latent, noise, time)
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = step
    return mixed.to(first.dtype)
