"""What the tests of the stores share: a generation, claims, a store that is closed again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from app.domain import EventKind, Generation, GenerationSpec, Status
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import Claim, NewEvent

MINE = Claim("mine", 60.0)
THEIRS = Claim("theirs", 60.0)
STEP = NewEvent(EventKind.STEP, {"step": 1, "steps": 20, "live": 16})


def generation(id: str = "gen_a", status: Status = Status.RUNNING, created: float = 100.0) -> Generation:
    spec = GenerationSpec(id, "a red apple", "blurry", 2, 1, 64, 64, 20, 4.0, "euler", 7)
    return Generation(spec, status, created, "pictogram", "pictogram")


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[SqlGenerationStore]:
    store = await SqlGenerationStore.open(url)
    try:
        yield store
    finally:
        await store.close()
