"""Which replica serves which models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MODELS_TOPIC = "models"
"""Topic of `GenerationStore.listen`: what a replica serves has changed."""


@dataclass(frozen=True, slots=True)
class ServedModelRow:
    """A model of a replica.

    `card` is its facts as JSON, `weights` the generator's revision; both are empty before its first load.
    """

    replica: str
    model: str
    state: str
    card: str
    weights: str = ""


class ServedModelStore(Protocol):
    """The models of all replicas of one database."""

    async def publish(self, replica: str, rows: Sequence[ServedModelRow]) -> None:
        """Replace what a replica serves, as of now.

        Listeners hear of a change: of models, and of the queue if work for weights that were withdrawn may be free.
        """

    async def live(self, span_s: float) -> list[ServedModelRow]:
        """The models of replicas that published within `span_s`, by model."""
