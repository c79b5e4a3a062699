"""Database work of an idle service does not grow with stored data. SQLite's own steps are counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.domain import Status
from app.stores.api_keys import SqlApiKeyStore
from app.stores.generations import SqlGenerationStore
from app.stores.protocols import DeliveryLimits
from app.stores.webhooks import SqlWebhookOutbox
from tests.unit.store_kit import MINE, STEP, generation, opened

pytestmark = pytest.mark.slow

FEW, MANY = 100, 5000

PERIODIC: dict[str, Callable[[SqlGenerationStore], Awaitable[Any]]] = {
    "webhooks waiting": lambda store: SqlWebhookOutbox(store.connections).count_pending(),
    "webhooks due": lambda store: SqlWebhookOutbox(store.connections).lease_due(
        1e9, 60, DeliveryLimits(32, 32, 32), []
    ),
    "the first of the queue": lambda store: store.next_claimable("pictogram", "pictogram", 64, 60),
    "a claim": lambda store: store.claim("pictogram", "pictogram", 64, MINE),
    "expired, none": lambda store: store.list_expired(0.5),
    "expired, all": lambda store: store.list_expired(1e9),
    "abandoned": lambda store: store.list_abandoned(1e9),
    "ping": lambda store: store.ping(),
    "keys": lambda store: SqlApiKeyStore(store.connections).list_keys(),
}


@contextmanager
def steps_counted() -> Iterator[Callable[[], int]]:
    """How many steps SQLite's machine has made since, on connections opened meanwhile."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def connected(connection: Any, _: object) -> None:
        connection.set_progress_handler(count, 1)

    event.listen(Engine, "connect", connected)
    try:
        yield lambda: steps
    finally:
        event.remove(Engine, "connect", connected)


async def _store(store: SqlGenerationStore, path: Path, stored: int) -> None:
    """`stored` generations that ended, the newest with its webhook still to be told, and one that waits."""
    await store.create(generation("gen_open", Status.QUEUED), [STEP], None)
    ended = generation("gen_0", Status.SUCCEEDED)
    await store.create(ended, [STEP], None)
    with sqlite3.connect(path) as file:
        file.execute(
            """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
            INSERT INTO generations (id, owner, status, created, claims, model, scorer, candidates, last_seq, record)
            SELECT 'gen_' || i, owner, status, created, claims, model, scorer, candidates, last_seq, record
            FROM generations, n WHERE id = 'gen_0'""",
            (stored,),
        )
        file.execute("INSERT INTO webhooks (generation_id, attempts, due) VALUES ('gen_0', 0, 0)")
    file.close()


@pytest.mark.anyio
@pytest.mark.parametrize("asked", PERIODIC)
async def test_what_is_asked_again_and_again_does_not_grow_with_what_is_stored(tmp_path: Path, asked: str) -> None:
    costs = []
    for stored in (FEW, MANY):
        path = tmp_path / f"{stored}.db"
        with steps_counted() as steps:
            async with opened(f"sqlite:///{path}") as store:
                await _store(store, path, stored)
                before = steps()
                await PERIODIC[asked](store)
                costs.append(steps() - before)
    assert 0 < costs[1] < costs[0] + FEW, f"steps with {FEW} and {MANY} stored: {costs}"
