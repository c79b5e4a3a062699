"""Ten times more than a replica can do: what it takes it ends, the rest it refuses, and it does not grow.

How long the answers take then is measured by `python -m tests.bench --only overload`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.system.overload import CANDIDATES, CAPACITY, DELAY_S, SETTINGS, TIMES, overloaded, queue_of
from tests.system.replicas import replicas

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("OVERLOAD_S", "12"))
GROWTH_MIB = 24.0
"""Of memory, under load: a leak of 20 kB a request would be more."""


def test_what_is_too_much_is_refused_and_the_rest_ends(tmp_path: Path) -> None:
    with replicas(tmp_path, 1, DELAY_S, SETTINGS) as (replica,):
        seen = asyncio.run(overloaded(replica, SECONDS, queue_of(tmp_path)))
        assert replica.ready()
    over = seen.over
    assert seen.full.refused == []
    assert seen.full.odd + over.odd == []
    assert len(over.refused) > (TIMES / 2) * len(over.done), "it was an overload"
    for _, answer in over.refused:
        assert answer.json()["error"]["code"] == "queue_full"
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert len(over.done) > len(seen.full.done) / 4, "it worked all the while"
    assert over.queued
    assert set(seen.statuses) == {"succeeded"}
    assert max(seen.waiting) <= CAPACITY + CANDIDATES, (
        "one that was claimed, and found the engine just filled, waits again"
    )
    assert seen.rss_mib[-1] - seen.rss_mib[len(seen.rss_mib) // 3] < GROWTH_MIB
