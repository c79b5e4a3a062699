"""Ids of generations and batches, and of models with several weights."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def base_name(model: str) -> str:
    """The name that all weights of a model share: NAME of NAME@LABEL."""
    return model.partition("@")[0]


def new_id(prefix: str = "gen_") -> str:
    """The prefix and a ULID.

    A ULID has 48 bits of milliseconds and 80 random bits, in Crockford base 32.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
