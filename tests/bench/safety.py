"""What `safety: "flag"` adds to a request."""

from __future__ import annotations

import httpx

from tests.bench import server
from tests.bench.kit import Figure, paired
from tests.bench.speed import PROMPT


def overhead(client: httpx.Client, runs: int) -> Figure:
    """The best of 16 with `flag`, against the same without."""
    seeds = iter(range(1_000_000))

    def made(mode: str) -> None:
        server.generate(client, PROMPT, n_candidates=16, seed=next(seeds), safety=mode)

    value, detail = paired(lambda: made("flag"), lambda: made("off"), runs)
    return Figure("best of 16 with `safety: flag`: wall time", value, "without", at_most=1.05, detail=detail)
