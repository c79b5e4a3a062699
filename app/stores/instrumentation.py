"""How long stores take and how often they fail, by operation. Counted where a store is used, told by /metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from app.errors import StoreUnavailable


class Stopwatch:
    """Totals since the process began, by operation."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    @contextmanager
    def time(self, operation: str) -> Iterator[None]:
        """Count this block as one call, and as a failure if the store was unavailable."""
        start = perf_counter()
        try:
            yield
        except StoreUnavailable:
            self.failures[operation] += 1
            raise
        finally:
            self.calls[operation] += 1
            self.seconds[operation] += perf_counter() - start  # type: ignore[assignment]
