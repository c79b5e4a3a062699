"""The engine's few numbers, each with its reason. Read from settings by the composition root only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine.

    buckets: rows a denoiser call may hold, ascending; few sizes, so that kernels and graphs are reused.
    deterministic_rows: the one batch size of `deterministic` generations, whatever the company.
    capacity: candidates held at once, waiting or running; more are refused before they queue.
    live_rows: candidates that are being denoised at once; those beyond wait without latents.
    decode_pixels: pixels decoded in one call, which bounds the memory of the decoder.
    warmup_s: seconds that timing device calls at load may take; beyond one step and one decode, a call is made only
    where it is expected to fit, and the rest is learnt while serving.
    timed_s: seconds of calls that are timed of a kind, one of each size, before larger ones are left to serving.
    max_failing_ticks: device calls that may fail in a row before the engine counts as dead.
    """

    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    deterministic_rows: int = 4
    capacity: int = 512
    live_rows: int = 256
    decode_pixels: int = 4 * 2**20
    warmup_s: float = 20.0
    timed_s: float = 0.25
    max_failing_ticks: int = 3

    def __post_init__(self) -> None:
        """Refuse what could never run."""
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1:
            raise ValueError("buckets must be distinct, ascending and at least 1")
        if min(self.deterministic_rows, self.capacity, self.live_rows, self.max_failing_ticks) < 1:
            raise ValueError("deterministic_rows, capacity, live_rows and max_failing_ticks must be at least 1")

    def decode_rows(self, width: int, height: int) -> int:
        """Images of this size that one decoder call may hold: at least one, at most the largest bucket."""
        return max(1, min(self.buckets[-1], self.decode_pixels // (width * height)))
