"""Which pictures are near-duplicates of one another: pure functions over unit embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols import Embeddings

NEAR_DUPLICATE = 0.97
"""Pictures whose embeddings have at least this cosine are near-duplicates, and so are those of such a chain."""


def groups(images: Embeddings) -> list[int]:
    """For each of the images (B, D) the first place of its group: connected components of near-duplicates."""
    alike = images @ images.T >= NEAR_DUPLICATE
    found = list(range(len(images)))
    seen = np.zeros(len(images), bool)
    for place in np.flatnonzero(alike.sum(axis=1) > 1):
        if not seen[place]:
            members = _component(alike, int(place))
            seen[members] = True
            for member in members:
                found[member] = int(place)
    return found


def duplicates(images: Embeddings, best_first: Sequence[int]) -> dict[int, int]:
    """For every place that is a near-duplicate, the best of its group; the best themselves are left out.

    `best_first` holds every place once, in the order that says which is better.
    """
    own = groups(images)
    heads: dict[int, int] = {}
    for place in best_first:
        heads.setdefault(own[place], place)
    return {place: heads[own[place]] for place in range(len(images)) if heads[own[place]] != place}


def _component(alike: NDArray[np.bool_], start: int) -> list[int]:
    """All places that a chain of near-duplicates leads to from `start`, itself included."""
    reached = np.zeros(len(alike), bool)
    reached[start] = True
    front = reached.copy()
    while front.any():
        front = alike[front].any(axis=0) & ~reached
        reached |= front
    return [int(place) for place in np.flatnonzero(reached)]
