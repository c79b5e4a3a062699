"""Idempotency: a repeated request returns the generation of the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from weakref import WeakValueDictionary

from app.domain import Generation, Status
from app.errors import KeyReused, NotFound
from app.service.auth import current_owner
from app.service.types import IdempotencyKey
from app.stores.protocols import GenerationStore, IdempotencyMatch, KeyRecord


class Idempotency:
    """Idempotency keys of all use cases; one key names one generation.

    `get` returns a generation that the caller may see, or raises NotFound.
    """

    def __init__(self, records: GenerationStore, get: Callable[[str], Awaitable[Generation]]) -> None:
        self._records = records
        self._get = get
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def run(
        self, once: IdempotencyKey | None, make: Callable[[KeyRecord | None], Awaitable[Generation | IdempotencyMatch]]
    ) -> Generation:
        """Return the result of `make`, or an earlier request's generation.

        `make` stores the key in the transaction that creates the generation. It returns the match when another replica
        stored the key first. Raises KeyReused, and what `make` raises.
        """
        key = KeyRecord(current_owner(), once.key, once.fingerprint) if once is not None else None
        if once is None or key is None:
            return await self._found(await make(None), None)
        lock = self._locks.setdefault((key.owner, key.key), asyncio.Lock())
        async with lock:
            earlier = await self._records.find_idempotent(key.owner, key.key)
            while True:
                if earlier is not None and await self._attaches(once, earlier):
                    return await self._found(earlier, key)
                made = await make(replace(key, replaces=earlier.generation_id if earlier else ""))
                if isinstance(made, Generation):
                    return made
                earlier = made  # another replica was quicker

    async def _attaches(self, once: IdempotencyKey, earlier: IdempotencyMatch) -> bool:
        """Whether the request gets the earlier generation, or a new one."""
        return once.window_s is None or (once.retry and await self._serves_retry(earlier, once.window_s))

    async def _serves_retry(self, earlier: IdempotencyMatch, window_s: float) -> bool:
        """Whether a retry may have this generation: recent, not failed, not cancelled."""
        try:
            generation = await self._get(earlier.generation_id)
        except NotFound:
            return False
        ended = generation.status in {Status.FAILED, Status.CANCELLED}
        return not ended and self._records.clock() - generation.created <= window_s

    async def _found(self, made: Generation | IdempotencyMatch, key: KeyRecord | None) -> Generation:
        if isinstance(made, Generation):
            return made
        if key is None or made.fingerprint != key.fingerprint:
            raise KeyReused("Idempotency-Key was used for a different request: send a new key with a new request")
        return await self._get(made.generation_id)
