"""Candidates made over the contract alone, as the engine makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocols import Latent, StepRow, StepwiseGenerator


@dataclass
class Candidate:
    """A row and what it still has to go through."""

    row: StepRow

    @property
    def done(self) -> bool:
        return self.row.step == self.row.schedule.calls


def start(
    generator: StepwiseGenerator,
    seed: int,
    *,
    prompt: str = "a red apple",
    negative: str = "blue",
    guidance: float = 3.0,
    sampler: str = "",
    steps: int = 5,
    size: tuple[int, int] | None = None,
) -> Candidate:
    info = generator.info
    width, height = size or (info.width, info.height)
    schedule = generator.schedule(sampler or info.sampler, steps, width, height)
    texts = generator.encode([prompt, negative])
    return Candidate(
        StepRow(
            latent=generator.noise(seed, width, height, schedule),
            prompt=texts[0],
            negative=texts[1] if guidance > 1 else None,
            guidance_scale=guidance,
            schedule=schedule,
            step=0,
            seed=seed,
        )
    )


def step(generator: StepwiseGenerator, candidates: Sequence[Candidate], size: int | None = None) -> None:
    latents = generator.step([each.row for each in candidates], size or len(candidates))
    for each, latent in zip(candidates, latents, strict=True):
        each.row = replace(each.row, latent=latent, step=each.row.step + 1)


def finish(generator: StepwiseGenerator, candidates: Sequence[Candidate], size: int | None = None) -> list[Latent]:
    """Step until all are done; those that need more steps go on without the others."""
    while live := [each for each in candidates if not each.done]:
        step(generator, live, size)
    return [each.row.latent for each in candidates]


def values(latent: Latent) -> NDArray[np.float32]:
    """A latent's x on the host."""
    return np.array(latent.x)


def difference(one: Any, other: Any) -> float:
    """Largest difference of two latents' x."""
    return float(np.abs(values(one) - values(other)).max())


def levels(one: Any, other: Any) -> int:
    """Largest difference of two batches of pixels, in grey levels."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())
