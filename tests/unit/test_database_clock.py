"""A replica whose clock is days off uses the database's clock for dates, retention and counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import time_machine
from sqlalchemy import text

from app.domain import Webhook
from app.service import (
    ApiKeyAuthenticator,
    GenerationParams,
    Permission,
    WebhookClient,
    WebhookDispatcher,
    WebhookPolicy,
    as_caller,
    create_api_key,
)
from app.stores.api_keys import SqlApiKeyStore
from app.stores.protocols import DeliveryLimits
from app.stores.webhooks import SqlWebhookOutbox
from tests.servers import free_port
from tests.unit.service_kit import House, house

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
SLACK_S = 3600.0
"""What a busy machine may take for a test, and far less than the clocks here are off."""

SECRET = "whsec_" + "A" * 40


@contextmanager
def clock_off(days: float) -> Iterator[float]:
    """This process's clock is that many days off; gives the time without that."""
    now = time.time()
    with time_machine.travel(now + days * DAY_S, tick=True):
        yield now


async def _moments(there: House) -> list[float]:
    """Every time that is stored and compared."""
    columns = "SELECT created FROM generations UNION SELECT finished FROM generations UNION SELECT created FROM events"
    rows = await there.records.connections.read(lambda c: c.execute(text(columns)).all())
    return [row[0] for row in rows]


@pytest.mark.parametrize("days", [8, -8])
async def test_a_replica_with_another_clock_forgets_nothing_and_dates_as_the_others(
    tmp_path: Path, url: str, days: float
) -> None:
    async with house(tmp_path, url=url) as one:
        name = await one.made(n_candidates=2)
        with clock_off(days) as now:
            async with house(tmp_path, url=url) as other:
                assert await other.service.purge_expired(WEEK_S) == 0
                made = await other.made(n_candidates=1)
                assert all(abs(moment - now) < SLACK_S for moment in await _moments(other))
        assert await one.service.purge_expired(WEEK_S) == 0
        for kept in (name, made):
            assert (await one.service.image(kept, 0, "png")).data


async def test_quotas_and_webhooks_go_by_the_databases_clock(tmp_path: Path, url: str) -> None:
    with clock_off(8) as now:
        async with house(tmp_path, url=url, hooks=WebhookPolicy(SECRET, allow_private=True)) as there:
            await _quota_is_used_in_this_window(there, now)
            await _a_failed_webhook_is_due_soon(there, now)


async def _quota_is_used_in_this_window(there: House, now: float) -> None:
    keys = SqlApiKeyStore(there.records.connections)
    key, told = create_api_key("test", list(Permission), 50, int(DAY_S))
    await keys.add(key)
    caller = await ApiKeyAuthenticator(keys, there.records.clock).authenticate(told, Permission.GENERATE)
    with as_caller(caller):
        await there.made(n_candidates=2)
    windows = await _rows(there, 'SELECT "window" FROM api_key_usage')
    assert windows[0][0] in {int(now // DAY_S), int((now + SLACK_S) // DAY_S)}


async def _a_failed_webhook_is_due_soon(there: House, now: float) -> None:
    hook = Webhook(f"http://127.0.0.1:{free_port()}/", ("succeeded",))
    asked = await there.service.submit(GenerationParams("x", n_candidates=1, webhook=hook))
    await there.service.wait(asked.id)
    store, webhook_client = SqlWebhookOutbox(there.records.connections), WebhookClient(allow_private=True)
    policy = WebhookPolicy(SECRET, allow_private=True)
    dispatcher = WebhookDispatcher(
        store, SqlApiKeyStore(there.records.connections), webhook_client, policy, there.records.clock
    )
    (due,) = await store.lease_due(there.records.clock(), 60, DeliveryLimits(1, 1, 1), [])
    await dispatcher._deliver(due, SECRET)
    await webhook_client.close()
    assert abs((await _rows(there, "SELECT due FROM webhooks"))[0][0] - now) < SLACK_S


async def _rows(there: House, query: str) -> Any:
    return await there.records.connections.read(lambda connection: connection.execute(text(query)).all())
