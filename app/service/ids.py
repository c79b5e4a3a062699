"""Ids of generations and batches."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(prefix: str = "gen_") -> str:
    """The prefix and a ULID.

    A ULID has 48 bits of milliseconds and 80 random bits, in Crockford base 32.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
