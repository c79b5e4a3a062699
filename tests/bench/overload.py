"""A replica that is asked for ten times what it can do: how long answers and refusals take, and whether it grows.

On the fakes, whose device calls take a fixed time: what is measured is admission, not sampling.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.bench.kit import Figure
from tests.system.overload import DELAY_S, SETTINGS, overloaded, queue_of
from tests.system.replicas import replicas

FAKES = "fakes"


def overload(seconds: float = 60.0) -> list[Figure]:
    """Ten times the load for so long, against a full load of the same replica."""
    with tempfile.TemporaryDirectory() as folder, replicas(Path(folder), 1, DELAY_S, SETTINGS) as (replica,):
        seen = asyncio.run(overloaded(replica, seconds, queue_of(Path(folder))))
    detail = {
        "seconds": seconds,
        "asked_per_s": round(seen.asked_per_s, 1),
        "accepted": len(seen.over.done),
        "refused": len(seen.over.refused),
    }
    early = seen.rss_mib[len(seen.rss_mib) // 6]
    return [
        Figure(
            "accepted, at ten times the load", seen.slower, "at full load", at_most=1.5, detail=detail, weights=FAKES
        ),
        Figure("a refusal, at ten times the load", 1000 * seen.refusal_s, "ms", at_most=50.0, weights=FAKES),
        Figure("memory after it", seen.rss_mib[-1] / early, "a sixth of the way in", at_most=1.05, weights=FAKES),
    ]
