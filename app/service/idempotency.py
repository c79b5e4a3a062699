"""Requests that are sent again: the first one with an idempotency key is done, later ones get what came of it."""

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
    """The keys of requests that make generations: a key names one generation, whichever use case made it.

    `get` gives a generation that the caller may see, or raises NotFound.
    """

    def __init__(self, records: GenerationStore, get: Callable[[str], Awaitable[Generation]]) -> None:
        self._records = records
        self._get = get
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def run(
        self, once: IdempotencyKey | None, make: Callable[[KeyRecord | None], Awaitable[Generation | IdempotencyMatch]]
    ) -> Generation:
        """What `make` makes; with the key of an earlier request, that one's generation as it stands.

        `make` writes the key in the transaction that creates the generation; it gives the earlier generation when
        another replica has used the key since. Raises KeyReused, and what `make` does.
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
            raise KeyReused("this Idempotency-Key came with another request before: take a new key for a new request")
        return await self._get(made.generation_id)
