"""The engine's limits. Only the composition root derives them from settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine.

    buckets: allowed rows of a denoiser call, ascending; few sizes, so that kernels and graphs are reused.
    deterministic_rows: the fixed batch size of `deterministic` generations.
    capacity: maximum candidates held, waiting or running; further ones are rejected before they queue.
    live_rows: maximum candidates being denoised; further ones wait without latents.
    decode_pixels: maximum pixels decoded in one call, which limits the decoder's memory.
    warmup_s: maximum seconds for timing device calls at load time. Beyond one step and one decode, a call is made only
    if it is expected to fit. The other costs are learned while serving.
    timed_s: seconds of timed calls per kind, one of each size, after which larger sizes are left to serving.
    max_failing_ticks: consecutive failed device calls after which the engine is dead.
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
        """Reject values that can never run. Raises ValueError."""
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 1:
            raise ValueError("buckets must be distinct, ascending and at least 1")
        if min(self.deterministic_rows, self.capacity, self.live_rows, self.max_failing_ticks) < 1:
            raise ValueError("deterministic_rows, capacity, live_rows and max_failing_ticks must be at least 1")

    def decode_rows(self, width: int, height: int) -> int:
        """Return images of this size per decoder call, 1 to the largest bucket."""
        return max(1, min(self.buckets[-1], self.decode_pixels // (width * height)))
