"""Which replicas run, and which of them a request is for.

The router of this process publishes the first, and asks for the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

WATCHERS: list[Callable[[list[str]], None]] = []
"""Receive the ids of the running replicas, on the router's thread."""


def choose(candidates: Sequence[Any], wanted: str) -> Sequence[Any]:
    """The candidate that is wanted, or all."""
    return [each for each in candidates if each.replica_id.unique_id == wanted] or candidates


def publish(replicas: Sequence[Any]) -> None:
    """Report to the watchers which replicas run."""
    for watch in WATCHERS:
        watch([each.replica_id.unique_id for each in replicas])
