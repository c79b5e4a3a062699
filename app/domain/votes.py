"""Taste profiles: votes on candidates."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VoteKind(StrEnum):
    """The kind of a vote."""

    LIKE = "like"
    DISLIKE = "dislike"
    PREFER = "prefer"


@dataclass(frozen=True, slots=True)
class Vote:
    """A vote on candidate `index`, or a preference of it to candidate `over`.

    `direction` is its direction in the scorer's space: float16 (D,), little-endian.
    """

    kind: VoteKind
    generation: str
    index: int
    over: int | None
    direction: bytes

    @property
    def key(self) -> tuple[object, ...]:
        """The identity of the vote, independent of its direction."""
        return self.kind, self.generation, self.index, self.over


@dataclass(frozen=True, slots=True)
class TasteProfile:
    """Votes of one scorer; `centre` float32 (D,), little-endian, mean of field means."""

    scorer: str
    revision: str
    centre: bytes
    fields: int
    votes: tuple[Vote, ...]
