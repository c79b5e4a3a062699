"""Content negotiation: `Accept` with q-values (RFC 9110), `Prefer` (RFC 7240).

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

JSON = "application/json"
EVENTS = "text/event-stream"
IMAGES = ("image/png", "image/webp", "image/jpeg")

_SECONDS = re.compile(r"[0-9]{1,5}")
_Q = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def negotiate(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that `accept` prefers; None if it accepts none.

    Among equal q-values the offer with the more specific media range wins, then the earlier one.
    """
    ranges = _parse_accept(accept or "*/*")
    ranked = [(*_quality(offer, ranges), -place) for place, offer in enumerate(offers)]
    quality, _, place = max(ranked)
    return offers[-place] if quality > 0 else None


def has_preference(prefer: str, word: str) -> bool:
    """Whether a `Prefer` header contains a preference, such as `respond-async`.

    Unknown preferences are ignored.
    """
    return word in (part.partition(";")[0].strip().lower() for part in prefer.split(","))


def preferred_wait_s(prefer: str) -> int:
    """Seconds of the preference `wait`; 0 if it is absent or invalid."""
    parts = (part.partition(";")[0].partition("=") for part in prefer.split(","))
    values = [value.strip().strip('"') for name, _, value in parts if name.strip().lower() == "wait"]
    return int(values[0]) if values and _SECONDS.fullmatch(values[0]) else 0


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    """Media ranges with their q-values; an invalid q counts as 0.

    Other parameters are ignored.
    """
    ranges = []
    for part in accept.split(","):
        name, *parameters = (p.strip().lower() for p in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        quality = float(weights[0]) if weights and _Q.fullmatch(weights[0]) else 0.0 if weights else 1.0
        ranges.append((name, quality))
    return ranges


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The q-value of the most specific range that matches, and its specificity."""
    specificity = {"*/*": 1, f"{offer.partition('/')[0]}/*": 2, offer: 3}
    matching = [(specificity[name], quality) for name, quality in ranges if name in specificity]
    exact, quality = max(matching, default=(0, 0.0))
    return quality, exact
