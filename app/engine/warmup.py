"""Warm-up: times device calls before the first request, within a time budget.

A step and a decode are always timed. `cost_model.CallSeconds` estimates the other sizes and learns them while serving.
Engine thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter, process_time
from typing import TypeAlias

from app.engine.config import EngineConfig
from app.engine.cost_model import CallSeconds
from app.engine.scheduler import CallKind
from app.errors import OutOfDeviceMemory
from models.protocols import Embedder, Latent, OutOfMemory, StepRow, StepwiseGenerator

log = logging.getLogger(__name__)

Report: TypeAlias = Callable[[str], None]
"""Receives the name of the start-up part that begins. Any thread."""

TIMED_ROWS = 8
"""Rows of the larger timed decode."""


def silent(part: str) -> None:
    """Ignore the report."""


class Progress:
    """The current part of the start-up; the engine's thread sets and logs it."""

    def __init__(self) -> None:
        self.part = "starting"
        self._began = perf_counter()

    def __call__(self, part: str) -> None:
        """Begin a part with a short name such as `loading the scorer`."""
        self.part = part
        seconds = {"elapsed_s": perf_counter() - self._began, "processor_s": process_time()}
        log.info("start-up: %s", part, extra={name: round(each, 1) for name, each in seconds.items()})


class Warmup:
    """Times calls at the default size that are expected to end within `warmup_s`.

    Calls have the default guidance. A size is timed twice, and the faster call counts. The first call may include
    one-time compilation (on a GPU, seconds), and other work on the machine may slow down either.
    """

    def __init__(
        self,
        generator: StepwiseGenerator,
        scorer: Embedder,
        config: EngineConfig,
        clock: Callable[[], float],
        report: Report,
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._config = config
        self._clock = clock
        self._report = report
        self._began = clock()
        self._seen = {kind: CallSeconds({}) for kind in (CallKind.STEP, CallKind.FINISH, CallKind.PREVIEW)}
        self._row = self._first_row()
        self._stepped: Latent = None

    def run(self) -> dict[CallKind, dict[int, float]]:
        """Return seconds of steps, previews and finishes, by rows.

        Raises OutOfDeviceMemory when a single row does not fit.
        """
        least = self._config.buckets[0]
        try:
            self._report("timing a step")
            expected = {CallKind.STEP: self._call(CallKind.STEP, least)}
            self._report("timing a decode")
            expected[CallKind.FINISH] = self._call(CallKind.FINISH, 1)
            if self._affordable(expected[CallKind.FINISH]):
                expected[CallKind.PREVIEW] = self._call(CallKind.PREVIEW, 1)
            for kind, seconds in expected.items():
                rows = least if kind is CallKind.STEP else 1
                if self._affordable(seconds):
                    self._call(kind, rows)
                self._seen[kind].settle(rows)
        except OutOfMemory as error:
            raise OutOfDeviceMemory(
                "the device memory is too small for one row of the default size: use a smaller model or another device"
            ) from error
        self._report("timing larger calls")
        self._climb(CallKind.STEP, self._config.buckets[1:])
        decoded = min(TIMED_ROWS, self._config.decode_rows(*self._size))
        for kind in (CallKind.FINISH, CallKind.PREVIEW):
            if kind in expected and decoded > 1:
                self._climb(kind, (decoded,))
        timed = {kind: seen.known for kind, seen in self._seen.items()}
        timed[CallKind.PREVIEW] = timed[CallKind.PREVIEW] or timed[CallKind.FINISH]
        return timed

    @property
    def _size(self) -> tuple[int, int]:
        return self._generator.info.width, self._generator.info.height

    def _first_row(self) -> StepRow:
        info = self._generator.info
        schedule = self._generator.schedule(info.sampler, info.steps, info.width, info.height)
        text = self._generator.encode([""])[0]
        negative = text if info.is_guided(info.guidance_scale) and info.negative_prompts else None
        noise = self._generator.noise(0, info.width, info.height, schedule)
        return StepRow(noise, text, negative, info.guidance_scale, schedule, 0, 0)

    def _climb(self, kind: CallKind, sizes: tuple[int, ...]) -> None:
        """Time ever larger calls within `timed_s`, the remaining budget and the memory."""
        seen = self._seen[kind]
        for rows in sizes:
            expected = seen.estimate(rows)
            if sum(seen.known.values()) + expected > self._config.timed_s:
                return
            try:
                for _ in range(2):
                    if not self._affordable(expected):
                        return
                    expected = self._call(kind, rows)
            except OutOfMemory:
                return

    def _affordable(self, seconds: float) -> bool:
        return self._clock() - self._began + seconds <= self._config.warmup_s

    def _call(self, kind: CallKind, rows: int) -> float:
        started = self._clock()
        if kind is CallKind.STEP:
            self._stepped = self._generator.step([self._row] * rows, rows)[0]
        else:
            pixels = self._generator.decode([self._stepped] * rows, preview=kind is CallKind.PREVIEW)
            self._scorer.embed_images(pixels)
        seconds = self._clock() - started
        self._seen[kind].note(rows, seconds)
        return seconds
