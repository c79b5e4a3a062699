"""Who waits for news of a generation, or for one to claim, is woken here. One event loop only."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakValueDictionary

QUEUE = ""
"""The name under which it is told that a generation may be claimed, or that there is room for one."""


class News:
    """Take the pulse of a name before looking, then wait for it: nothing told in between is missed."""

    def __init__(self) -> None:
        self._pulses: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def pulse(self, name: str) -> asyncio.Event:
        """What the next news of `name` sets."""
        return self._pulses.setdefault(name, asyncio.Event())

    def tell(self, name: str) -> None:
        """Wake who waits for `name`."""
        pulse = self._pulses.pop(name, None)
        if pulse is not None:
            pulse.set()

    def tell_all(self) -> None:
        """Wake everybody."""
        for name in list(self._pulses):
            self.tell(name)


async def heard(pulse: asyncio.Event, timeout_s: float) -> None:
    """Return when there is news, or after `timeout_s`."""
    with suppress(TimeoutError):
        await asyncio.wait_for(pulse.wait(), timeout_s)
