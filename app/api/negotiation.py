"""Which of its manners a caller asked for: `Accept` with q-values (RFC 9110) and `Prefer` (RFC 7240). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

JSON = "application/json"
EVENTS = "text/event-stream"
IMAGES = ("image/png", "image/webp", "image/jpeg")

_Q = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def negotiate(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that `accept` likes best, None when it takes none of them.

    Of equally liked offers the one that was named more exactly wins, then the earlier one.
    """
    ranges = _parse_accept(accept or "*/*")
    ranked = [(*_quality(offer, ranges), -place) for place, offer in enumerate(offers)]
    quality, _, place = max(ranked)
    return offers[-place] if quality > 0 else None


def has_preference(prefer: str, word: str) -> bool:
    """Whether a `Prefer` header holds a preference, such as `respond-async`; unknown ones are passed over."""
    return word in (part.partition(";")[0].strip().lower() for part in prefer.split(","))


def _parse_accept(accept: str) -> list[tuple[str, float]]:
    """Media ranges with their q; parameters other than q are left aside, a q that is none counts as 0."""
    ranges = []
    for part in accept.split(","):
        name, *parameters = (p.strip().lower() for p in part.split(";"))
        weights = [p.removeprefix("q=") for p in parameters if p.startswith("q=")]
        quality = float(weights[0]) if weights and _Q.fullmatch(weights[0]) else 0.0 if weights else 1.0
        ranges.append((name, quality))
    return ranges


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The q of the most exact range that holds the offer, and how exact that is."""
    exactness = {"*/*": 1, f"{offer.partition('/')[0]}/*": 2, offer: 3}
    held = [(exactness[name], quality) for name, quality in ranges if name in exactness]
    exact, quality = max(held, default=(0, 0.0))
    return quality, exact
