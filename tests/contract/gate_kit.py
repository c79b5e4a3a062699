"""Stock pipelines run alone, and the same jobs through the gate."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocols import Latent, StepRow, StepwiseGenerator, to_host
from tests.contract.families import FAMILIES, Family

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


class Gated:
    """A family behind the gate, beside its stock pipeline."""

    def __init__(self, name: str, change: Callable[[Any], None] = lambda _: None) -> None:
        from models.generators.gate.generator import PipelineGate
        from models.runtime.placement import prepare_process, select_device

        prepare_process()
        self.name = name
        self.family: Family = FAMILIES[name]
        self.pipe = self.family.build(name)
        change(self.pipe)
        defaults = {"width": self.family.size, "height": self.family.size}
        self.gate = PipelineGate(
            self.pipe, select_device("cpu"), id=name, defaults=defaults, arguments=dict(self.family.arguments)
        )
        self.generator: StepwiseGenerator = self.gate
        self._stock: dict[Job, Made] = {}

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
        while live := [index for index, row in enumerate(now) if row.step < row.schedule.steps]:
            for index, row in zip(live, self.step([now[index] for index in live], size), strict=True):
                now[index] = row
        return [row.latent for row in now]

    def pixels(self, latents: Sequence[Latent], *, preview: bool = False) -> NDArray[np.uint8]:
        return to_host(self.generator.decode(latents, preview=preview))

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
        stage = self.gate._stage
        if stage.guidance_name is not None:
            arguments[stage.guidance_name] = self.family.guidance
        elif hasattr(pipe, "guider"):
            for name in GUIDERS:
                if getattr(pipe, name, None) is not None:
                    getattr(pipe, name).guidance_scale = self.family.guidance
        if self.generator.info.negative_prompts:
            arguments["negative_prompt"] = job.negative
        if "use_resolution_binning" in stage.names:
            arguments["use_resolution_binning"] = False
        if stage.modular:
            arguments["output"] = "images"
        with torch.inference_mode():
            result = pipe(**arguments, generator=torch.Generator().manual_seed(job.seed))
        images = result if isinstance(result, list) else getattr(result, "images", None) or result.image
        return Made(seen[-1].numpy(), np.asarray(images[0].convert("RGB")))


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


def apart(latent: Latent, wanted: NDArray[np.float32]) -> float:
    """Largest difference of a latent's sample, as a share of the values where these are large."""
    return float(np.abs(np.asarray(latent.x) - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def levels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """Largest difference of two pictures, in grey levels."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
