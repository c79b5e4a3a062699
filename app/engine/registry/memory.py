"""The memory of models: a budget for weights, and which of them make room."""

from __future__ import annotations

import asyncio
from typing import Protocol

from app.errors import ModelLoadFailed

ROOM_POLL_S = 0.05
"""Seconds between looks whether a busy model has become idle."""

MIB = 2**20


class Tenant(Protocol):
    """A model that occupies memory while it is loaded."""

    name: str
    resident: bool
    last_used: float

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights now; 0 unless loaded."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether it is loaded."""
        ...

    @property
    def idle(self) -> bool:
        """Whether no work of it runs or waits here."""
        ...

    def yield_memory(self) -> None:
        """Take no more work, so that it becomes idle."""
        ...

    async def unload(self) -> None:
        """Free its memory."""
        ...


class ModelMemory:
    """Weights of all models within `budget_bytes`; 0 is no limit. Event loop only.

    The least recently used idle model on demand makes room. If all are busy, the least recently used of them takes no
    more work until it is idle. Resident models stay.
    """

    def __init__(self, budget_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self.one_load = asyncio.Lock()
        self._tenants: list[Tenant] = []

    def add(self, tenant: Tenant) -> None:
        """Count a model."""
        self._tenants.append(tenant)

    @property
    def used_bytes(self) -> int:
        """Bytes of the weights of all loaded models."""
        return sum(each.weight_bytes for each in self._tenants)

    async def make_room(self, needed_bytes: int, wanted: str, *, measured: bool = True) -> None:
        """Unload models until `needed_bytes` more fit.

        Raises ModelLoadFailed if they never fit, unless they are only expected and not `measured`.
        """
        while self.budget_bytes and self.used_bytes + needed_bytes > self.budget_bytes:
            loaded = [each for each in self._tenants if each.loaded and not each.resident]
            if not loaded and not measured:
                return
            if not loaded:
                raise ModelLoadFailed(
                    f"model {wanted!r} needs {_mib(needed_bytes)} MiB and {_mib(self.used_bytes)} MiB are taken: raise "
                    f"FRONTRUNNER_MODEL_MEMORY_MIB above {_mib(self.budget_bytes)}, or let models load on demand"
                )
            idle = [each for each in loaded if each.idle]
            oldest = min(idle or loaded, key=lambda each: each.last_used)
            if idle:
                await oldest.unload()
            else:
                oldest.yield_memory()
                await asyncio.sleep(ROOM_POLL_S)


def _mib(count: int) -> int:
    return -(-count // MIB)
