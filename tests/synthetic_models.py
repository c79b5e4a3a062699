"""The synthetic models with counters and faults, for tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embeddings, GeneratorInfo, Images, Latent, OutOfMemory, Pixels, StepRow, Styles
from models.protocols.steering import SteerRow
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering


class StyledGenerator(FakeGenerator):
    """Spreads prompts without a style over two styles."""

    @property
    def info(self) -> GeneratorInfo:
        return replace(super().info, styles=Styles(("old", "new"), frozenset({"style"}), spread=True))


class InstrumentedGenerator(FakeGenerator):
    """Counts its denoiser calls, and can fail, run out of memory and be slow.

    `calls` holds the rows of every denoiser call and `sizes` what they were padded to. The call of index
    `fail_on_call` raises RuntimeError. Calls of more than `max_rows` raise `OutOfMemory`. Every denoiser call sleeps
    for `delay_s`.
    """

    def __init__(
        self, *, fail_on_call: int | None = None, max_rows: int | None = None, delay_s: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.calls: list[int] = []
        self.sizes: list[int] = []
        self.fail_on_call = fail_on_call
        self.max_rows = max_rows
        self.delay_s = delay_s

    def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
        _check_memory(size, self.max_rows)
        call = len(self.calls)
        self.calls.append(len(rows))
        self.sizes.append(size)
        time.sleep(self.delay_s)
        if call == self.fail_on_call:
            raise RuntimeError(f"fake failure in denoiser call {call}")
        return super().step(rows, size)

    def decode(self, latents: Sequence[Latent], *, preview: bool = False) -> Images:
        _check_memory(len(latents), self.max_rows)
        return super().decode(latents, preview=preview)

    def encode_image(self, pixels: Images) -> NDArray[np.float16]:
        _check_memory(len(pixels), self.max_rows)
        return super().encode_image(pixels)


class InstrumentedScorer(FakeScorer):
    """Counts the images of every call in `calls`; more than `max_rows` raise `OutOfMemory`."""

    def __init__(self, *, max_rows: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[int] = []
        self.max_rows = max_rows

    def embed_images(self, pixels: Pixels) -> Embeddings:
        _check_memory(len(pixels), self.max_rows)
        self.calls.append(len(pixels))
        return super().embed_images(pixels)


class InstrumentedSteering(FakeSteering):
    """Holds the rows of every call in `calls`, and what they were padded to in `sizes`.

    More than `max_rows` raise `OutOfMemory`. `problem` refuses every size.
    """

    def __init__(self, *, max_rows: int | None = None, problem: str | None = None, bit_stable: bool = True) -> None:
        self.calls: list[int] = []
        self.sizes: list[int] = []
        self.max_rows = max_rows
        self.problem = problem
        self.bit_stable = bit_stable

    def check(self, width: int, height: int) -> None:
        if self.problem is not None:
            self.refusal = self.problem
            raise ValueError(self.problem)
        super().check(width, height)

    def steer(self, rows: Sequence[SteerRow], size: int) -> list[Any]:
        _check_memory(size, self.max_rows)
        self.calls.append(len(rows))
        self.sizes.append(size)
        return super().steer(rows, size)


def _check_memory(rows: int, max_rows: int | None) -> None:
    if max_rows is not None and rows > max_rows:
        raise OutOfMemory(f"the fake device holds {max_rows} rows, not {rows}")
