"""A gated candidate between two steps, and its way to the next step.

Owns `GateLatent`, which is data, and `Attempt`, a run that continues from it and can be lost without harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.generators.gate.calls import Call
from models.generators.gate.scheduler_proxy import Stepped
from models.generators.gate.stage import CandidateRun, Memory, Request, decoder_of
from models.protocols import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class GateSchedule(Schedule):
    """The steps of a pipeline for one size.

    The table has one row per scheduler step: a second-order solver makes two per step. It holds times only, the rest
    is NaN: the pipeline's own scheduler makes the steps.
    """

    width: int = 0
    height: int = 0

    @classmethod
    def of(cls, sampler: str, steps: int, times: Sequence[float], width: int, height: int) -> GateSchedule:
        """The schedule of scheduler steps at these times."""
        calls = len(times)
        starts = tuple(-(-step * calls // steps) for step in range(steps + 1)) if calls > steps else None
        table = np.full((calls, len(Schedule.COLUMNS)), np.nan)
        table[:, 0] = times
        entry = np.full((calls, 2), np.nan)
        return cls(sampler, float("nan"), table, entry, starts=starts, width=width, height=height)


@dataclass(slots=True, eq=False)
class GateLatent:
    """A candidate before scheduler step `step`. Sizes in pixels.

    `x`, `x0`: the pipeline's sample and x0 estimate in its own packing; None before the first step. `z`, `z0`: the same
    as decoder input, once requested. `picture` (C, h, w): the image that it starts from, in the form of `z`. `attempt`:
    the run that continues from here, until a step takes it. `before` and `x0_before` are x and x0 of the latent before
    the step, if the row is steered. `moved`: x differs from the run's own sample since.
    """

    width: int
    height: int
    seed: int = 0
    step: int = 0
    x: Any | None = None
    x0: Any | None = None
    guidance_gap: Any | None = None
    memory: Memory | None = None
    picture: NDArray[np.float16] | None = None
    z: Any | None = None
    z0: Any | None = None
    attempt: Attempt | None = None
    before: Any | None = None
    x0_before: Any | None = None
    moved: bool = False


@dataclass(slots=True, eq=False)
class Attempt:
    """A run on its way to the end of one scheduler step.

    That is when the scheduler has made `target` steps. `key` is request and step; an attempt is valid for its key
    only.
    """

    run: CandidateRun
    key: tuple[Request, int]
    target: int
    made: Stepped | None = None
    guidance_gap: Any | None = None
    complete: bool = False
    _outputs: list[Any] = field(default_factory=list)

    @property
    def call(self) -> Call:
        """The call it waits for."""
        assert isinstance(self.run.event, Call)
        return self.run.event

    def begin(self, latent: GateLatent) -> None:
        """Continue to the first call of the step, from a latent that has moved if it has."""
        if not self.complete and not isinstance(self.run.event, Call):
            if latent.moved and self.run.event is not None and latent.memory is not None:
                self.run.recall(latent.memory)
            self._follow(self.run.resume(*(() if self.run.event is None else (latent.x if latent.moved else None,))))

    def answer(self, result: Any) -> None:
        """Answer the call and continue to the next call or the end of the step."""
        if not self.run.skipping:
            self._outputs += _entries(result)
        self._follow(self.run.resume(result))

    def latent_after(self, latent: GateLatent, step: int, *, steered: bool) -> GateLatent:
        """The latent before `step`, made from `latent`; it holds no run."""
        assert self.made is not None
        made = GateLatent(latent.width, latent.height, latent.seed, step, self.made.x, self.made.x0, self.guidance_gap)
        if steered:
            made.before = latent.x if latent.x is not None else self.run.scheduler._first
            made.x0_before = latent.x0
        return made

    def _follow(self, event: Any) -> None:
        while isinstance(event, Stepped):
            self.made, self.guidance_gap = event, _gap(self._outputs)
            self._outputs = []
            if self.run.scheduler.done >= self.target:
                self.complete = True
                return
            event = self.run.resume(None)
        if not isinstance(event, Call) or decoder_of(event):
            raise RuntimeError("the pipeline ended before its last scheduler step")


def _entries(result: Any) -> list[Any]:
    """The rows of a denoiser's result."""
    while not isinstance(result, torch.Tensor):
        if isinstance(result, list) and len(result) and isinstance(result[0], torch.Tensor):
            return result
        result = getattr(result, "sample", None) if hasattr(result, "sample") else result[0]
    return list(result)


def _gap(outputs: list[Any]) -> Any | None:
    """Root mean square difference of a step's first two predictions.

    None for one prediction.
    """
    if len(outputs) < 2 or outputs[0].shape != outputs[1].shape:
        return None
    return (outputs[0].float() - outputs[1].float()).square().mean().sqrt()


def likeliest(encoded: Any) -> Any:
    """The latents of an encoder's result."""
    for name in ("latent_dist", "latent", "latents"):
        found = getattr(encoded, name, None)
        if found is not None:
            return found.mode() if name == "latent_dist" else found
    return encoded[0]


def flat_shape(z: Any) -> tuple[int, int, int]:
    """(C, h, w) of one row of the decoder's input.

    Video autoencoders have a frame dimension, which is 1.
    """
    return int(z.shape[-4] if z.ndim == 5 else z.shape[-3]), int(z.shape[-2]), int(z.shape[-1])
