"""Idempotency: a repeated request returns the generation of the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from app.domain import Generation
from app.errors import KeyReused
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
        if key is None:
            return await self._found(await make(None), key)
        lock = self._locks.setdefault((key.owner, key.key), asyncio.Lock())
        async with lock:
            earlier = await self._records.find_idempotent(key.owner, key.key)
            return await self._found(earlier or await make(key), key)

    async def _found(self, made: Generation | IdempotencyMatch, key: KeyRecord | None) -> Generation:
        if isinstance(made, Generation):
            return made
        if key is None or made.fingerprint != key.fingerprint:
            raise KeyReused("Idempotency-Key was used for a different request: send a new key with a new request")
        return await self._get(made.generation_id)
