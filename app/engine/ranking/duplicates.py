"""Near-duplicate detection: pure functions over unit embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embeddings

NEAR_DUPLICATE_COSINE = 0.97
"""Minimum cosine of the embeddings of near-duplicates; the relation is transitive."""


def duplicate_groups(images: Embeddings) -> list[int]:
    """Return the first place of the group of each image (B, D).

    Groups are connected components of near-duplicates.
    """
    if len(images) < 2:
        return list(range(len(images)))
    alike = images @ images.T >= NEAR_DUPLICATE_COSINE
    found = list(range(len(images)))
    seen = np.zeros(len(images), bool)
    for place in np.flatnonzero(alike.sum(axis=1) > 1):
        if not seen[place]:
            members = _component(alike, int(place))
            seen[members] = True
            for member in members:
                found[member] = int(place)
    return found


def find_duplicates(images: Embeddings, best_first: Sequence[int]) -> dict[int, int]:
    """Map each near-duplicate to the best of its group; omit the best themselves.

    `best_first` holds every place once, best first.
    """
    own = duplicate_groups(images)
    best_of: dict[int, int] = {}
    for place in best_first:
        best_of.setdefault(own[place], place)
    return {place: best_of[own[place]] for place in range(len(images)) if best_of[own[place]] != place}


def _component(alike: NDArray[np.bool_], start: int) -> list[int]:
    """Return all places connected to `start` by near-duplicates, including `start`."""
    reached = np.zeros(len(alike), bool)
    reached[start] = True
    front = reached.copy()
    while front.any():
        front = alike[front].any(axis=0) & ~reached
        reached |= front
    return [int(place) for place in np.flatnonzero(reached)]
