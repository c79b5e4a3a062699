"""Which manner a caller gets, from `Accept` and `Prefer` alone."""

from __future__ import annotations

import pytest

from app.api.negotiation import EVENTS, IMAGES, JSON, has_preference, negotiate

OFFERS = [JSON, EVENTS, *IMAGES]
PNG, WEBP, JPEG = IMAGES


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", EVENTS),
        ("image/*", PNG),
        ("image/webp", WEBP),
        ("IMAGE/JPEG", JPEG),
        ("image/png, application/json", JSON),
        ("image/png, */*", PNG),
        ("image/png;q=0.5, image/webp;q=0.8", WEBP),
        ("image/*, image/png;q=0", WEBP),
        ("*/*;q=0.1, text/event-stream", EVENTS),
        ("application/json;q=0, */*", EVENTS),
        ("application/json;charset=utf-8;q=0.3, image/png;q=0.2", JSON),
        ("text/html, application/xhtml+xml, image/avif, image/webp, */*;q=0.8", WEBP),
        ("text/html", None),
        ("image/*;q=0", None),
        ("image/png;q=much", None),
        (",;,", None),
    ],
)
def test_choose(accept: str | None, chosen: str | None) -> None:
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize(
    ("prefer", "holds"),
    [
        ("respond-async", True),
        ("Respond-Async", True),
        ("wait=10, respond-async; priority=5", True),
        ("", False),
        ("respond-asynchronously", False),
        ("return=minimal", False),
    ],
)
def test_prefers(prefer: str, holds: bool) -> None:
    assert has_preference(prefer, "respond-async") is holds
