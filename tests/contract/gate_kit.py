"""Stock pipelines run alone, and the same jobs behind the gate and by the native loop."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.protocols import Latent, OutOfMemory, StepRow, StepwiseGenerator, to_host
from tests.contract.families import FAMILIES, Family, Path

GUIDERS = ("guider", "ocr_guider")


@dataclass(frozen=True, slots=True)
class Job:
    """One candidate that is asked for."""

    prompt: str = "a red apple"
    seed: int = 3
    steps: int = 4
    negative: str = "blue"


JOBS = (Job(), Job("a yellow duck on water", 7, 6, "bad"), Job(seed=11))


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What the stock pipeline made: its last sample, as the loop has it, and the picture (H, W, 3)."""

    latent: NDArray[np.float32]
    pixels: NDArray[np.uint8]


@functools.cache
def built(name: str) -> tuple[Any, dict[Job, Made]]:
    """A family's stock pipeline, and what it made alone, for the gate and the native loop."""
    from models.runtime.placement import prepare_process

    prepare_process()
    return FAMILIES[name].build(name), {}


class Driven:
    """A family behind the protocol, beside its stock pipeline."""

    generator: StepwiseGenerator
    names: frozenset[str]
    guidance_name: str | None
    modular = False

    def __init__(self, name: str, change: Callable[[Any], None] | None = None) -> None:
        self.name = name
        self.family: Family = FAMILIES[name]
        if change is None:
            self.pipe, self._stock = built(name)
        else:
            self.pipe, self._stock = self.family.build(name), {}
            change(self.pipe)

    def options(self) -> dict[str, Any]:
        """How the generator is made."""
        sides = {"width": self.family.size, "height": self.family.size}
        return {"id": self.name, "defaults": sides, "arguments": dict(self.family.arguments)}

    def row(self, job: Job) -> StepRow:
        """A candidate before its first step."""
        info, size = self.generator.info, self.family.size
        schedule = self.generator.schedule(info.sampler, job.steps, size, size)
        reads = info.negative_prompts
        return StepRow(
            latent=self.generator.noise(job.seed, size, size, schedule),
            prompt=self.generator.encode([job.prompt])[0],
            negative=self.generator.encode([job.negative], negative=True)[0] if reads else None,
            guidance_scale=self.family.guidance,
            schedule=schedule,
            step=0,
            seed=job.seed,
        )

    def step(self, rows: Sequence[StepRow], size: int | None = None) -> list[StepRow]:
        """The same rows, one step on."""
        latents = self.generator.step(rows, size or len(rows))
        return [replace(row, latent=latent, step=row.step + 1) for row, latent in zip(rows, latents, strict=True)]

    def finish(self, rows: Sequence[StepRow], size: int | None = None) -> list[Latent]:
        """Step until all are done; those that need more steps go on without the others."""
        now = list(rows)
        while live := [index for index, row in enumerate(now) if row.step < row.schedule.calls]:
            for index, row in zip(live, self.step([now[index] for index in live], size), strict=True):
                now[index] = row
        return [row.latent for row in now]

    def pixels(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.uint8]:
        return to_host(self.generator.decode(latents, preview=preview))

    def sample(self, latent: Latent, like: NDArray[np.float32]) -> NDArray[np.float32]:
        """A latent's x in the layout of the pipeline's own loop."""
        return np.asarray(latent.x)

    def held(self, latent: Latent) -> Any:
        """What the candidate occupies, and must free."""
        raise NotImplementedError

    @contextmanager
    def counted(self, raise_on: int | None = None) -> Iterator[list[int]]:
        """Notes the entries of each model call; the call of that number finds the device full."""
        yield []
        raise NotImplementedError

    def stored_as_image(self, array: NDArray[np.float16]) -> Any:
        """A stored latent as the stock pipelines for images take it."""
        raise NotImplementedError

    def stock(self, job: Job) -> Made:
        """The stock pipeline alone, with a scheduler and guiders of its own; each job once."""
        if job not in self._stock:
            self._stock[job] = self._run(job)
        return self._stock[job]

    def _run(self, job: Job) -> Made:
        import torch

        pipe, seen = copy.copy(self.pipe), list[Any]()
        vars(pipe)["scheduler"] = recording(self.pipe.scheduler, seen)
        for name in GUIDERS:
            if getattr(pipe, name, None) is not None:
                vars(pipe)[name] = copy.deepcopy(getattr(pipe, name))
        arguments: dict[str, Any] = {**self.family.arguments, "prompt": job.prompt, "num_inference_steps": job.steps}
        arguments |= {"width": self.family.size, "height": self.family.size}
        if self.guidance_name is not None:
            arguments[self.guidance_name] = self.family.guidance
        elif hasattr(pipe, "guider"):
            for name in GUIDERS:
                if getattr(pipe, name, None) is not None:
                    getattr(pipe, name).guidance_scale = self.family.guidance
        if self.generator.info.negative_prompts:
            arguments["negative_prompt"] = job.negative
        if "use_resolution_binning" in self.names:
            arguments["use_resolution_binning"] = False
        if self.modular:
            arguments["output"] = "images"
        with torch.inference_mode():
            result = pipe(**arguments, generator=torch.Generator().manual_seed(job.seed))
        images = result if isinstance(result, list) else getattr(result, "images", None) or result.image
        return Made(seen[-1].numpy(), np.asarray(images[0].convert("RGB")))


class Gated(Driven):
    """A family behind the gate."""

    def __init__(self, name: str, change: Callable[[Any], None] | None = None) -> None:
        from models.generators.gate.generator import PipelineGate
        from models.runtime.placement import select_device

        super().__init__(name, change)
        gate = PipelineGate(self.pipe, select_device("cpu"), **self.options())
        self.generator = gate
        self.names, self.guidance_name, self.modular = gate._stage.names, gate._stage.guidance_name, gate._stage.modular

    def held(self, latent: Latent) -> Any:
        return latent.attempt.run

    @contextmanager
    def counted(self, raise_on: int | None = None) -> Iterator[list[int]]:
        from models.generators.gate import calls as made
        from models.generators.gate import generator as asked

        real: Callable[..., Any] = made.together
        calls: list[int] = []

        def together(found: Any) -> Any:
            _note(calls, sum(call.rows for call in found), raise_on)
            return real(found)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asked, "together", together)
            yield calls

    def stored_as_image(self, array: NDArray[np.float16]) -> Any:
        import torch

        z, config = torch.from_numpy(array[None].astype(np.float32)), self.pipe.vae.config
        if "latents_mean" in config and config.get("latents_mean") is not None:
            mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (config.latents_mean, config.latents_std))
            return (z - mean) / std
        return (z - (config.get("shift_factor") or 0.0)) * config.scaling_factor


class Native(Driven):
    """A family by its native loop."""

    def __init__(self, name: str, change: Callable[[Any], None] | None = None) -> None:
        from models.generators.native import NativeGenerator
        from models.runtime.placement import select_device

        super().__init__(name, change)
        placement = select_device("cpu")
        self._calls: list[int] | None = None
        self._raise_on: int | None = None
        real = placement.parallel

        def noted(work: Any, *inputs: Any, min_rows: int = 1) -> Any:
            if self._calls is not None:
                _note(self._calls, len(inputs[0]), self._raise_on)
            return real(work, *inputs, min_rows=min_rows)

        parallel: Any = noted
        native = NativeGenerator(self.pipe, replace(placement, parallel=parallel), **self.options())
        self.generator = native
        self.names = frozenset(inspect.signature(self.pipe.__call__).parameters)
        self.guidance_name = native._family.guidance_argument
        if self.family.draws is not None:
            self._stock = {}

    def sample(self, latent: Latent, like: NDArray[np.float32]) -> NDArray[np.float32]:
        x = np.asarray(latent.x)
        if like.ndim > 3:
            return x.reshape(like.shape)
        channels, height, width = x.shape
        if like.shape[2] == channels:
            return x.reshape(1, channels, height * width).transpose(0, 2, 1)
        cells = x.reshape(channels, height // 2, 2, width // 2, 2).transpose(1, 3, 0, 2, 4)
        return cells.reshape(1, height * width // 4, channels * 4)

    def held(self, latent: Latent) -> Any:
        return latent.x

    def _run(self, job: Job) -> Made:
        """With the noise that the native loop draws at each step."""
        from models.generators import native

        steps = itertools.count()

        def drawn(*_: Any, **__: Any) -> Any:
            return native._ancestral_noise([replace(self.row(job), step=next(steps))], np.ones(1))

        with pytest.MonkeyPatch.context() as patch:
            if self.family.draws is not None:
                patch.setattr(f"diffusers.schedulers.{self.family.draws}.randn_tensor", drawn)
            return super()._run(job)

    @contextmanager
    def counted(self, raise_on: int | None = None) -> Iterator[list[int]]:
        self._calls, self._raise_on = [], raise_on
        try:
            yield self._calls
        finally:
            self._calls = None

    def stored_as_image(self, array: NDArray[np.float16]) -> Any:
        import torch

        return torch.from_numpy(array[None].astype(np.float32))


@functools.cache
def driven(name: str, path: Path) -> Driven:
    """An unmodified family, made once: its calls are traced once."""
    return Native(name) if path == "native" else Gated(name)


def _note(calls: list[int], rows: int, raise_on: int | None) -> None:
    calls.append(rows)
    if raise_on is not None and len(calls) == raise_on:
        raise OutOfMemory("full")


def recording(scheduler: Any, seen: list[Any]) -> Any:
    """A copy of a scheduler that notes the sample after each step."""
    own = copy.deepcopy(scheduler)
    step = own.step

    @functools.wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        seen.append(result[0].clone())
        return result

    own.step = recorded
    return own


def apart(x: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Largest difference of two samples, as a share of the values where these are large."""
    return float(np.abs(x - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def levels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Largest difference of two pictures, in grey levels."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
