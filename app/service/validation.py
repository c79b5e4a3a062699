"""Checks shared by use cases. Every error names its field by a JSON Pointer."""

from __future__ import annotations

import math

from app.domain import Ranking
from app.errors import GuardNotInstalled, InvalidRequest
from app.service.types import Limits
from models.guards.text_reader import INSTALL
from models.protocols import GeneratorInfo
from models.protocols.guards import GUARDS

MIN_SIDE = 8
"""Shortest side of an image, in pixels."""

MAX_SAID = 10**20
"""Largest number that an error repeats."""


def check_text(text: str, pointer: str, limits: Limits, *, allow_empty: bool = True) -> None:
    """Reject a text that is blank, too long, or has invalid characters."""
    if not allow_empty and not text.strip():
        raise InvalidRequest("the text is empty: send at least one character", pointer=pointer)
    if len(text) > limits.prompt_chars:
        raise InvalidRequest(
            f"the text has {len(text)} characters; send at most {limits.prompt_chars}", pointer=pointer
        )
    if any((ord(c) < 32 and c not in "\n\t\r") or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise InvalidRequest("the text contains control characters or lone surrogates: remove them", pointer=pointer)


def check_ranking(ranking: Ranking, limits: Limits, base: str = "#/ranking") -> None:
    """Reject a ranking that cannot be scored. `base` is its pointer in the body."""
    if ranking.prompt is not None:
        check_text(ranking.prompt, f"{base}/prompt", limits, allow_empty=False)
    if len(ranking.negatives) > limits.negatives:
        raise InvalidRequest(
            f"{len(ranking.negatives)} negatives were sent; send at most {limits.negatives}",
            pointer=f"{base}/negatives",
        )
    for place, negative in enumerate(ranking.negatives):
        check_text(negative.text, f"{base}/negatives/{place}/text", limits, allow_empty=False)
        if not (math.isfinite(negative.weight) and negative.weight > 0):
            raise InvalidRequest("weight must be a finite number above 0", pointer=f"{base}/negatives/{place}/weight")
    if unknown := set(ranking.veto) - set(GUARDS):
        raise InvalidRequest(
            f"the guard {min(unknown)!r} is unknown; send guards among {', '.join(GUARDS)}", pointer=f"{base}/veto"
        )
    check_range(ranking.negative_weight, 0, 10, f"{base}/negative_weight")
    check_range(ranking.diversity, 0, 1, f"{base}/diversity")
    if ranking.min_score is not None:
        check_range(ranking.min_score, -20, 20, f"{base}/min_score")
    if ranking.balance is not None:
        _check_balance(ranking, limits, f"{base}/balance")
    if ranking.min_probability is not None:
        check_range(ranking.min_probability, 0, 1, f"{base}/min_probability")


def _check_balance(ranking: Ranking, limits: Limits, base: str) -> None:
    """Reject a balance without a distribution over different texts."""
    assert ranking.balance is not None
    values = ranking.balance.values
    if ranking.diversity > 0:
        raise InvalidRequest("`balance` and `diversity` exclude each other: send one of them", pointer=base)
    if len(values) < 2:
        raise InvalidRequest(
            "a balance has at least two values: send texts of which one fits", pointer=f"{base}/values"
        )
    for text, share in values:
        check_text(text, f"{base}/values", limits, allow_empty=False)
        check_range(share, 0, 1, f"{base}/values")
    total = sum(share for _, share in values)
    if abs(total - 1) > 1e-3:
        raise InvalidRequest(f"the shares sum to {total:g}: send shares that sum to 1", pointer=f"{base}/values")


def active_guards(ranking: Ranking, limits: Limits, base: str = "#/ranking") -> tuple[str, ...]:
    """The guards of a ranking: the server's, and those of the veto.

    Raises GuardNotInstalled.
    """
    missing = sorted(set(ranking.veto) - set(limits.installed_guards))
    if missing:
        raise GuardNotInstalled(
            f"the guard {missing[0]!r} is not installed: omit it, or ask the operator to run `{INSTALL}`",
            pointer=f"{base}/veto",
        )
    return tuple(name for name in GUARDS if name in {*limits.guards, *ranking.veto})


def check_range(value: float, low: float, high: float, pointer: str) -> None:
    """Reject a number outside [low, high], or NaN."""
    if not low <= value <= high:
        raise InvalidRequest(out_of_range(value, low, high), pointer=pointer)


def out_of_range(value: float, low: float, high: float) -> str:
    """The message about a number outside [low, high], or NaN."""
    said = "the value" if abs(value) > MAX_SAID else _written(value)
    return f"{said} is out of range; send a value between {_written(low)} and {_written(high)}"


def _written(value: float) -> float:
    """A whole number without its `.0`."""
    return int(value) if value % 1 == 0 else value


def check_size(width: int, height: int, generator: GeneratorInfo) -> None:
    """Reject a size that the generator does not support."""
    for side in (width, height):
        if side % generator.size_multiple:
            raise InvalidRequest(
                f"{side} is not a multiple of {generator.size_multiple}; send width and height that are",
                pointer="#/size",
            )
        check_range(side, max(MIN_SIDE, generator.size_multiple), generator.max_size, "#/size")


def makes_size(width: int, height: int, generator: GeneratorInfo) -> bool:
    """Whether `check_size` accepts this size."""
    try:
        check_size(width, height, generator)
    except InvalidRequest:
        return False
    return True
