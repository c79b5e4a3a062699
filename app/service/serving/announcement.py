"""The weights of a single model, published for other replicas.

Those with other weights of its name then leave its queue to it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from app.engine.protocols import Engine
from app.errors import StoreUnavailable
from app.service.serving.roster import RETRY_S, WRITES_PER_SPAN
from app.stores.protocols import ServedModelRow, ServedModelStore

log = logging.getLogger(__name__)

SINGLE = "single"
"""The state of a row that offers no requests to replicas with several models."""


class Announcement:
    """See the module. It lapses `span_s` after the last write."""

    def __init__(self, engine: Engine, store: ServedModelStore, span_s: float) -> None:
        self._engine = engine
        self._store = store
        self._span_s = span_s
        self._replica = secrets.token_hex(4)

    async def run(self) -> None:
        """Publish until cancelled; then withdraw."""
        published = False
        try:
            while True:
                wait_s = RETRY_S
                if self._engine.stats().ready:
                    wait_s = self._span_s / WRITES_PER_SPAN
                    published = await self._publish() or published
                await asyncio.sleep(wait_s)
        finally:
            if published:
                await self._write([])

    async def _publish(self) -> bool:
        model = self._engine.generator
        return await self._write([ServedModelRow(self._replica, model.id, SINGLE, "", model.revision)])

    async def _write(self, rows: list[ServedModelRow]) -> bool:
        try:
            await self._store.publish(self._replica, rows)
        except StoreUnavailable:
            log.debug("the weights were not published: the store is unavailable")
            return False
        return True
