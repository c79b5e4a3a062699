"""Texts as the synthetic models read them: four-colour thumbnails.

Owns the colour words, and the cut at a token limit that generator and scorer share.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.protocols import Truncation

Array = NDArray[np.float64]

COLOURS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "cyan": (-1, 1, 1),
    "purple": (0.3, -1, 0.6),
    "pink": (1, 0, 0.4),
    "orange": (1, 0.1, -1),
    "brown": (0.1, -0.4, -0.8),
    "black": (-1, -1, -1),
    "white": (1, 1, 1),
}


def truncate(text: str, limit: int) -> str:
    """The words of a text that fit; two tokens of `limit` are reserved."""
    return " ".join(text.split()[: limit - 2])


def truncation(text: str, limit: int) -> Truncation | None:
    """The notice of the words that `truncate` cuts off; None if the text fits."""
    words = text.split()
    if len(words) <= limit - 2:
        return None
    return Truncation(tokens=len(words) + 2, limit=limit, dropped=" ".join(words[limit - 2 :]))


@lru_cache(1024)
def thumbnail(text: str) -> Array:
    """What a text looks like: float64 (3, 2, 2), about -0.5..0.5.

    Colour words decide most of it, a hash of the text the rest.
    """
    if not text.strip():
        return np.zeros((3, 2, 2))
    own = (
        np.frombuffer(hashlib.sha256(text.encode(errors="replace")).digest()[:12], np.uint8).reshape(3, 2, 2) / 127.5
        - 1.0
    )
    named = [COLOURS[word] for word in re.findall(r"\w+", text.lower()) if word in COLOURS]
    colour = np.mean(named, axis=0) if named else np.zeros(3)
    return np.asarray(0.35 * colour[:, None, None] + 0.15 * own)
