"""How long stores take and how often they fail, by operation. Counted where a store is used, told by /metrics.

A full disk shows in writes only, and in large ones first: what has failed lately is what readiness asks about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

from app.errors import StoreUnavailable

HOLD_S = 10.0
"""How long a store counts as failing after an operation has failed: longer than followers wait to try again."""


class StoreInstruments:
    """Totals since the process began, by operation."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._failed: dict[str, float] = {}

    @contextmanager
    def measure(self, operation: str) -> Iterator[None]:
        """Count this block as one call, and as a failure if the store was unavailable."""
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
        """Return if the operation has not failed lately, nor does it now that it is attempted.

        Raises StoreUnavailable. Costs nothing where all is well.
        """
        if operation not in self._failed:
            return
        await attempt()
        if monotonic() - self._failed[operation] < HOLD_S:
            raise StoreUnavailable("a write has failed a moment ago")
        del self._failed[operation]
