"""Which attempts are late, and when a second one is worth it. Pure functions.

A worker that hangs, or is much slower than the others, must not hold up a generation. So another worker runs the same
rows as well, and the first result counts. Both are the same candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.engine.cluster.slots import Attempt, Slot

EVERY_S = 0.05
"""Seconds between looks at the attempts in flight."""

WORTH = 1.5
"""Minimum factor between the time to the end of an attempt and that of a new one."""

SLACK_S = 0.1
"""Seconds that are not worth a second attempt."""

SILENT_S = 5.0
"""Minimum seconds without a step before a worker is suspected to hang."""

SILENT_STEPS = 20.0
"""The same, in steps of the attempt so far."""


def late(attempts: Sequence[Attempt], now: float) -> list[Attempt]:
    """Attempts that are the only one of their chunk, those with the longest way first."""
    single = [a for a in attempts if len(a.chunk.attempts) == 1]
    return sorted(single, key=lambda a: (not a.slot.suspect, -a.expected_s(now)))


def is_worth(attempt: Attempt, redo_s: float, now: float) -> bool:
    """Whether a second attempt of `redo_s` seconds would end well before this one."""
    return attempt.expected_s(now) > WORTH * redo_s + SLACK_S


def silent(attempts: Sequence[Attempt], now: float) -> list[Slot]:
    """Workers none of whose attempts has made a step for long."""
    slots = {a.slot for a in attempts}
    return [slot for slot in slots if all(_is_silent(a, now) for a in slot.attempts)]


def _is_silent(attempt: Attempt, now: float) -> bool:
    a_step = (attempt.moved - attempt.sent) / max(1, attempt.made)
    return now - attempt.moved > max(SILENT_S, SILENT_STEPS * a_step)
