"""Sampling of fields: many candidates of many prompts in one denoiser call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocols import (
    Conditioning,
    GeneratorInfo,
    Images,
    OutOfMemory,
    Schedule,
    StepRow,
    StepwiseGenerator,
    to_host,
)
from models.tuning.settings import TuningSettings


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Candidates of one prompt, and how they were sampled.

    `latents` are finished ones. `images` are uint8 (N, H, W, 3). `votes` are likes (True) and dislikes by candidate.
    """

    prompt: str
    latents: Any
    images: Images
    guidance: float
    negative_prompt: str = ""
    votes: Mapping[int, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class StoredField:
    """Candidates of one prompt that a store holds, see `Field`.

    `key` names them in their store. `load` reads their latents, float16 (N, C, h, w); None if they are gone or damaged.
    """

    key: str
    prompt: str
    load: Callable[[], NDArray[np.float16] | None]
    guidance: float
    negative_prompt: str = ""
    votes: Mapping[int, bool] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What is learnt from, without the latents, for JSON."""
        votes = {str(index): liked for index, liked in self.votes.items()}
        known = {"key": self.key, "prompt": self.prompt, "guidance": self.guidance, "votes": votes}
        return {**known, "negative_prompt": self.negative_prompt}


@dataclass(frozen=True, slots=True, eq=False)
class Sampling:
    """The sampling of a run: a schedule, a guidance scale and a size in pixels."""

    schedule: Schedule
    guidance: float
    width: int
    height: int

    @classmethod
    def of(cls, generator: StepwiseGenerator, settings: TuningSettings) -> Sampling:
        """The sampling of these settings.

        Raises ValueError for those that the model does not support.
        """
        info = generator.info
        width, height = settings.width or info.width, settings.height or info.height
        guidance = info.guidance_scale if settings.guidance is None else settings.guidance
        schedule = generator.schedule(settings.sampler or info.sampler, settings.steps or info.steps, width, height)
        return cls(schedule, guidance, width, height)

    def noising(self, generator: StepwiseGenerator) -> Schedule:
        """The schedule of training: this one, or that of a first-order sampler."""
        if self.schedule.starts is None:
            return self.schedule
        plain = next(
            each for each in ("ddim", "euler", *generator.info.samplers) if each in first_order(generator.info)
        )
        return generator.schedule(plain, self.schedule.steps, self.width, self.height)


def first_order(info: GeneratorInfo) -> tuple[str, ...]:
    """The samplers that call the denoiser once a step."""
    return tuple(each for each in info.samplers if each not in info.second_order)


class FieldSampler:
    """Draws fields with whichever adapter is active. `rows` candidates share a call."""

    def __init__(self, generator: StepwiseGenerator, sampling: Sampling, rows: int) -> None:
        self.sampling = sampling
        self._generator = generator
        self._rows = rows

    def texts(
        self, prompt: str, guidance: float, negative_prompt: str = ""
    ) -> tuple[Conditioning, Conditioning | None]:
        """The encoded prompt, and what guidance moves away from.

        None at a scale that does not guide.
        """
        (encoded,), is_guided = self._generator.encode([prompt]), self._generator.info.is_guided(guidance)
        return encoded, self._generator.encode([negative_prompt], negative=True)[0] if is_guided else None

    def draw(self, prompts: Sequence[str], count: int, seeds: Sequence[Sequence[int]]) -> Iterator[Field]:
        """One field of `count` candidates for each prompt, in order, with these seeds.

        Halves the rows of a call, for good, if the device cannot hold them. Raises `OutOfMemory` for one row.
        """
        whole = max(1, self._rows // count)
        for start in range(0, len(prompts), whole):
            part = slice(start, start + whole)
            texts, drawn = prompts[part], list[Any]()
            jobs = [(text, seed) for text, own in zip(texts, seeds[part], strict=True) for seed in own[:count]]
            while len(drawn) < len(jobs):
                drawn += self._fitting(jobs[len(drawn) : len(drawn) + self._rows])
            for place, text in enumerate(texts):
                yield self.field(text, drawn[place * count : (place + 1) * count])

    def field(self, prompt: str, latents: Sequence[Any]) -> Field:
        """Decoded candidates of one prompt."""
        images = [self._generator.decode(latents[i : i + self._rows]) for i in range(0, len(latents), self._rows)]
        return Field(prompt, latents, np.concatenate([to_host(each) for each in images]), self.sampling.guidance)

    def stored(self, known: StoredField) -> Field | None:
        """A stored field, as drawn; None without usable latents."""
        latents = known.load()
        if latents is None:
            return None
        made = self.field(known.prompt, self._generator.load(latents))
        return replace(made, votes=known.votes, guidance=known.guidance, negative_prompt=known.negative_prompt)

    def _fitting(self, jobs: Sequence[tuple[str, int]]) -> list[Any]:
        """Finished latents of as many jobs as fit, from the first one on."""
        while True:
            try:
                return self._run(jobs[: self._rows])
            except OutOfMemory:
                if self._rows == 1:
                    raise
                self._rows //= 2

    def _run(self, jobs: Sequence[tuple[str, int]]) -> list[Any]:
        generator, sampling, schedule = self._generator, self.sampling, self.sampling.schedule
        texts = generator.encode([text for text, _ in jobs])
        guided = generator.info.is_guided(sampling.guidance)
        negative = generator.encode([""], negative=True)[0] if guided else None
        latents = [generator.noise(seed, sampling.width, sampling.height, schedule) for _, seed in jobs]
        for step in range(schedule.calls):
            rows = [
                StepRow(latent, text, negative, sampling.guidance, schedule, step, seed)
                for latent, text, (_, seed) in zip(latents, texts, jobs, strict=True)
            ]
            latents = generator.step(rows, len(rows))
        return latents


def seeds_of(*key: int, count: int) -> list[int]:
    """32-bit seeds of candidates that depend on the key alone."""
    return [int(seed) for seed in np.random.SeedSequence(key).generate_state(count)]
