"""The models of all live replicas: each publishes its own and reads the others'."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import cast, get_args

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from app.engine.registry import ModelCard, ModelRegistry, ModelStateName
from app.errors import StoreUnavailable
from app.service.generations.event_log import wait_until_set
from app.stores.protocols import ServedModelRow, ServedModelStore

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""Minimum seconds between the starts of two looks.

So unknown names do not load the database.
"""

RETRY_S = 1.0
"""Maximum seconds between two tries to announce the models after the start."""

WRITES_PER_SPAN = 3
"""How often a replica publishes within the span after which it counts as gone."""


@cache
def _cards() -> TypeAdapter[ModelCard]:
    """Built at the first use: a single model needs none."""
    return TypeAdapter(ModelCard)


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """A model of other replicas: what is known of it, and its state by replica.

    `card` is None if no replica has loaded it yet.
    """

    card: ModelCard | None
    states: Mapping[str, ModelStateName]


class Roster:
    """See the module. A replica that has not published for `span_s` counts as gone.

    `announced`: other replicas can find the models that were loaded at the start.
    """

    def __init__(self, registry: ModelRegistry, store: ServedModelStore, span_s: float) -> None:
        self.replica = secrets.token_hex(4)
        self._registry = registry
        self._store = store
        self._span_s = span_s
        self._elsewhere: dict[str, HeldElsewhere] = {}
        self.announced = False
        self._looked = -LOOK_S
        self._look_failure: str | None = None
        self._one_look = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def elsewhere(self) -> Mapping[str, HeldElsewhere]:
        """The models of other replicas by id, as of the last look."""
        return self._elsewhere

    def publish_soon(self) -> None:
        """Publish at once: a model was loaded."""
        self._changed.set()

    async def run(self) -> None:
        """Publish and look until cancelled; then withdraw."""
        await asyncio.to_thread(_cards)  # it takes a third of a second
        try:
            while True:
                self._changed = changed = asyncio.Event()
                try:
                    await self._publish()
                    await self.look()
                except StoreUnavailable:
                    log.warning("the models were not published: the store is unavailable")
                wait_s = self._span_s / WRITES_PER_SPAN
                await wait_until_set(changed, wait_s if self.announced else min(wait_s, RETRY_S))
        finally:
            try:
                await self._store.publish(self.replica, [])
            except StoreUnavailable:
                log.debug("the models were not withdrawn: they lapse")

    async def follow(self, subscribe: Callable[[], asyncio.Event]) -> None:
        """Look when other replicas announce or withdraw models, until cancelled.

        `subscribe` returns the event that the next notification sets.
        """
        changed = subscribe()
        while True:
            await changed.wait()
            changed = subscribe()  # before the look, which could miss a change that comes meanwhile
            try:
                await self.look()
            except StoreUnavailable:
                log.debug("the models of other replicas were not read: the store is unavailable")

    async def find(self, model: str, since: float | None = None) -> HeldElsewhere | None:
        """What other live replicas hold of a model; looks if its facts are not known.

        For `since` and errors see `look`.
        """
        held = self._elsewhere.get(model)
        if held is None or held.card is None:
            await self.look(since)
        return self._elsewhere.get(model)

    async def look(self, since: float | None = None) -> None:
        """Return after a look that began at `since` or later.

        It is a time of `time.monotonic`; None is now. Concurrent callers share a look, and one begins every `LOOK_S` at
        most. Raises StoreUnavailable.
        """
        since = time.monotonic() if since is None else since
        async with self._one_look:
            if self._looked < since:
                await asyncio.sleep(max(0.0, self._looked + LOOK_S - time.monotonic()))
                began = time.monotonic()
                self._look_failure = await self._read()
                self._looked = began  # not before: a look that is cancelled is none
            if self._look_failure is not None:
                raise StoreUnavailable(self._look_failure)

    async def _publish(self) -> None:
        loaded = self._registry.stats().ready
        await self._store.publish(self.replica, self._own())
        self.announced = self.announced or loaded

    async def _read(self) -> str | None:
        """Read what other replicas publish; return why it cannot be read."""
        try:
            rows = await self._store.live(self._span_s)
        except StoreUnavailable as error:
            return error.detail
        found: dict[str, list[ServedModelRow]] = {}
        for row in rows:
            if row.replica != self.replica and row.state in get_args(ModelStateName):
                found.setdefault(row.model, []).append(row)
        self._elsewhere = {model: _held(rows) for model, rows in found.items()}
        return None

    def _own(self) -> list[ServedModelRow]:
        rows = []
        for state in self._registry.states():
            managed = self._registry.managed(state.id)
            if managed is None or state.state == "failed":
                continue
            card = managed.facts_card()
            encoded = _cards().dump_json(card).decode() if card is not None else ""
            weights = card.generator.revision if card is not None else ""
            rows.append(ServedModelRow(self.replica, state.id, state.state, encoded, weights))
        return rows


def _held(rows: list[ServedModelRow]) -> HeldElsewhere:
    """One model of several replicas; a loaded one is the best source of its facts."""
    card = None
    for row in sorted(rows, key=lambda row: row.state != "loaded"):
        if row.card:
            try:
                card = _cards().validate_python(pydantic_core.from_json(row.card, allow_inf_nan=False))
                break
            except (ValidationError, ValueError):
                log.warning("the card of model %s was written by another release", row.model)
    return HeldElsewhere(card, {row.replica: cast(ModelStateName, row.state) for row in rows})
