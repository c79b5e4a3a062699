"""Claims of all generations that a process runs, kept and looked at together.

One transaction extends all claims, every third of a lease. One query a second finds claims that another process ended,
and generations whose progress another replica wants.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from app.errors import StoreUnavailable
from app.service.generations.recorder import GenerationRecorder
from app.stores.protocols import GenerationStore

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at the rows of running generations."""

WATCH_S = 8.0
"""Seconds that progress is stored after another replica asked for it."""

RENEW_S = 3.0
"""Minimum seconds between two requests for the progress of one generation."""


class Supervisor:
    """See the module. `recorders` are those of the process, by generation."""

    def __init__(
        self, records: GenerationStore, lease_s: float, recorders: Callable[[], Mapping[str, GenerationRecorder]]
    ) -> None:
        self._records = records
        self._lease_s = lease_s
        self._recorders = recorders
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Supervise until no generation runs; does nothing while it does."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._run(), name="supervise")

    def stop(self) -> None:
        """Stop at once: the claims expire."""
        if self._looking is not None:
            self._looking.cancel()

    async def _run(self) -> None:
        pause_s = min(LOOK_S, self._lease_s / 6)
        extended = time.monotonic()
        while True:
            await asyncio.sleep(pause_s)
            held = {name: each for name, each in self._recorders().items() if not each.claim_lost}
            if not held:
                return
            try:
                if (now := time.monotonic()) - extended + pause_s > self._lease_s / 3:
                    await self._prolong(held)
                    extended = now
                await self._look({name: each for name, each in held.items() if each.age_s >= pause_s})
            except StoreUnavailable:
                continue  # the claims may expire; the store decides then
            except Exception:  # a fault must not end the claims of everything that runs
                log.exception("looking after running generations failed")

    async def _prolong(self, held: Mapping[str, GenerationRecorder]) -> None:
        claims = {name: (each.claim, each.generation.progress) for name, each in held.items()}
        kept = await self._records.prolong(claims)
        found = {name: claim.token if name in kept else None for name, (claim, _) in claims.items()}
        self._check(_unchanged(held, {name: claim.token for name, (claim, _) in claims.items()}), found)

    async def _look(self, held: Mapping[str, GenerationRecorder]) -> None:
        if not held:
            return
        before = {name: each.claim.token for name, each in held.items()}
        rows = await self._records.look(list(held), WATCH_S)
        for name, row in rows.items():
            held[name].set_watched(watched=row.watched)
        lost = {name: rows[name].claim if name in rows else None for name in held}
        self._check(_unchanged(held, before), lost)

    def _check(self, held: Mapping[str, GenerationRecorder], found: Mapping[str, str | None]) -> None:
        """Give up what another process has ended or taken over meanwhile."""
        current = self._recorders()
        for name, each in held.items():
            if found[name] != each.claim.token and current.get(name) is each:
                each.lose_claim()


def _unchanged(held: Mapping[str, GenerationRecorder], tokens: Mapping[str, str]) -> Mapping[str, GenerationRecorder]:
    """Those that still have these claims.

    This process may have claimed a generation again meanwhile.
    """
    return {name: each for name, each in held.items() if each.claim.token == tokens[name]}


class ProgressRequests:
    """Asks other processes to store the progress of generations followed here."""

    def __init__(self, records: GenerationStore) -> None:
        self._records = records
        self._asked: dict[str, float] = {}

    async def ask(self, generation_id: str) -> None:
        """Ask, unless that was done a moment ago. Ignores store outages."""
        now = time.monotonic()
        if now - self._asked.get(generation_id, -RENEW_S) < RENEW_S:
            return
        self._asked = {name: at for name, at in self._asked.items() if now - at < RENEW_S}
        self._asked[generation_id] = now
        try:
            await self._records.record_watch(generation_id)
        except StoreUnavailable:
            self._asked.pop(generation_id, None)  # another request may have dropped it meanwhile
