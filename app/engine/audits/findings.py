"""Findings of an audit. Pure NumPy.

Owns the zero-shot classes of candidates, and what each attribute shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.engine.audits.statistics import (
    FieldCount,
    Interval,
    Odds,
    clustered_wilson,
    holm,
    ranking_odds,
    share_difference,
)
from models.protocols import Embeddings

UNDETERMINED = -1
"""Class of an image of which no value is certain."""

SIGNIFICANCE = 0.05
"""Adjusted p-value up to which the ranking counts as favouring a value."""

Classes = NDArray[np.int64]
"""A value's index for each candidate, or `UNDETERMINED`."""

Verdict = Literal["favours", "disfavours", "nothing found", "cannot tell"]
"""What the ranking does with a value.

`cannot tell`: no field had candidates with and without it.
"""


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is asked of every image.

    `values` are two or more texts, of which one should fit.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AuditedField:
    """One generation.

    `classes` (N,) are those of its candidates, by attribute; `won` says which of them won, bool (N,).
    """

    classes: tuple[Classes, ...]
    won: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Share:
    """How many of all candidates, or of all winners, are of a class."""

    count: int
    interval: Interval


@dataclass(frozen=True, slots=True)
class ValueFinding:
    """What one value shows.

    `difference` is the share of winners less that of candidates. `odds` compares candidates with this value to those
    with another one. `p_adjusted` is the p-value after Holm's correction over all tests of the audit.
    """

    text: str
    candidates: Share
    winners: Share
    difference: Interval
    odds: Odds
    p_adjusted: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AttributeFinding:
    """What one attribute shows, with the undetermined among candidates and winners."""

    name: str
    values: tuple[ValueFinding, ...]
    undetermined: Share
    undetermined_winners: Share


def classify(images: Embeddings, texts: Embeddings, logit_scale: float, certainty: float) -> Classes:
    """The likeliest value of each image, if its share is at least `certainty`.

    The share is that in the softmax of the cosines.

    `images` (N, D) may be NaN; those are undetermined. `texts` (K, D) are those of the values.
    """
    logits = logit_scale * (images.astype(np.float64) @ texts.astype(np.float64).T)
    known = np.asarray(np.isfinite(logits).all(axis=1))
    logits = np.where(known[:, None], logits, 0.0)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = logits.argmax(axis=1)
    sure = weights.max(axis=1) / weights.sum(axis=1) >= certainty
    return np.where(known & sure, best, UNDETERMINED).astype(np.int64)


def find(attributes: Sequence[Attribute], fields: Sequence[AuditedField]) -> list[AttributeFinding]:
    """What each attribute shows over all fields."""
    odds = [
        [ranking_odds([_determined(field, place, value) for field in fields]) for value in range(len(each.values))]
        for place, each in enumerate(attributes)
    ]
    tests = [(place, value) for place, row in enumerate(odds) for value in range(1 if len(row) == 2 else len(row))]
    adjusted = dict(zip(tests, holm([odds[place][value].p_value for place, value in tests]), strict=True))
    return [
        AttributeFinding(
            attribute.name,
            tuple(
                _value(text, place, value, fields, odds[place][value], _adjusted(adjusted, place, value))
                for value, text in enumerate(attribute.values)
            ),
            _share(fields, place, UNDETERMINED, winners=False),
            _share(fields, place, UNDETERMINED, winners=True),
        )
        for place, attribute in enumerate(attributes)
    ]


def _adjusted(found: dict[tuple[int, int], float], place: int, value: int) -> float:
    """Two values are one test: what favours the one disfavours the other."""
    return found[place, value] if (place, value) in found else found[place, 0]


def _value(
    text: str, place: int, value: int, fields: Sequence[AuditedField], odds: Odds, p_adjusted: float
) -> ValueFinding:
    verdict: Verdict = "cannot tell" if not odds.fields else "nothing found"
    if p_adjusted <= SIGNIFICANCE:
        verdict = "favours" if odds.observed > odds.expected else "disfavours"
    return ValueFinding(
        text,
        _share(fields, place, value, winners=False),
        _share(fields, place, value, winners=True),
        share_difference([_all(field, place, value) for field in fields]),
        odds,
        p_adjusted,
        verdict,
    )


def _share(fields: Sequence[AuditedField], place: int, value: int, *, winners: bool) -> Share:
    counted = [_all(field, place, value) for field in fields]
    counts = [f.winners_with if winners else f.with_attribute for f in counted]
    totals = [f.winners if winners else f.candidates for f in counted]
    return Share(sum(counts), clustered_wilson(counts, totals))


def _all(field: AuditedField, place: int, value: int) -> FieldCount:
    """Counts of all candidates."""
    return _count(field.classes[place] == value, field.won)


def _determined(field: AuditedField, place: int, value: int) -> FieldCount:
    """Counts of the candidates of which a value is certain."""
    known = field.classes[place] != UNDETERMINED
    return _count(field.classes[place][known] == value, field.won[known])


def _count(has: NDArray[np.bool_], won: NDArray[np.bool_]) -> FieldCount:
    return FieldCount(len(has), int(has.sum()), int(won.sum()), int((has & won).sum()))
