"""Durations and failures of store operations, exported by /metrics.

A full disk fails only writes, large ones first; readiness therefore checks operations that failed recently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

from app.errors import StoreUnavailable

HOLD_S = 10.0
"""Seconds a store counts as failing after a failure.

Longer than recorders wait before a retry.
"""


class StoreInstruments:
    """Totals by operation since the process started."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._failed: dict[str, float] = {}

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:
        """Count this block as one call, and as a failure on StoreUnavailable."""
        start = perf_counter()
        try:
            yield
        except StoreUnavailable:
            self.failures[operation] += 1
            self._failed[operation] = monotonic()
            raise
        finally:
            self.calls[operation] += 1
            self.seconds[operation] += perf_counter() - start  # type: ignore[assignment]

    async def check(self, operation: str, attempt: Callable[[], Awaitable[object]]) -> None:
        """Return if the operation did not fail recently and `attempt` succeeds.

        Without a recent failure, `attempt` is not called. Raises StoreUnavailable.
        """
        if operation not in self._failed:
            return
        await attempt()
        if monotonic() - self._failed[operation] < HOLD_S:
            raise StoreUnavailable(f"a write failed within the last {HOLD_S:g} s; retry later")
        del self._failed[operation]
