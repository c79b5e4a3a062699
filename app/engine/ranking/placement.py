"""Placement of scored images: selection, ranks, softmax, duplicates, confidence.

The single path from scores to a ranked list, for races, re-rankings and uploads. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from app.domain import Candidate, Ranking, Score
from app.engine.ranking import duplicates, scoring
from models.protocols import Embeddings, ScorerInfo


@dataclass(frozen=True, slots=True)
class Place:
    """The placement of one image; the fields are those of `Candidate`."""

    rank: int | None
    softmax: float | None
    z_score: float | None
    duplicate_of: int | None

    def given_to(self, candidate: Candidate, score: Score | None) -> Candidate:
        """Return the candidate with this score and placement."""
        return replace(
            candidate,
            score=score,
            rank=self.rank,
            softmax=self.softmax,
            z_score=self.z_score,
            duplicate_of=self.duplicate_of,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Places of all images, returned indices (best first), statistics of the field."""

    places: tuple[Place, ...]
    returned: tuple[int, ...]
    margin: float | None
    low_confidence: bool


def stand(
    scores: Sequence[Score | None],
    embeddings: Embeddings,
    pool: Sequence[int],
    asked: Ranking,
    n: int,
    scorer: ScorerInfo,
) -> Standing:
    """Place the images when the best `n` of the `pool` are returned.

    A score of None means not a number. `embeddings` (N, D) cover all images. Images outside the pool are not ranked;
    they only count as near-duplicates, behind the others.
    """
    values = [_value(s) for s in scores]
    racing = [values[i] for i in pool]
    places = scoring.select(racing, embeddings[pool], n, diversity=asked.diversity, min_score=asked.min_score)
    returned = tuple(pool[p] for p in places)
    share = dict(zip(pool, scoring.softmax(racing, scorer.logit_scale), strict=True))
    rank = {index: place + 1 for place, index in enumerate(returned)}
    alike = duplicates.duplicates(embeddings, _best_first(values, pool))
    best = scores[pool[scoring.order(racing)[0]]] if racing else None
    return Standing(
        places=tuple(
            Place(
                rank=rank.get(i),
                softmax=share.get(i),
                z_score=scoring.z_score(s.text, scorer) if s is not None else None,
                duplicate_of=alike.get(i),
            )
            for i, s in enumerate(scores)
        ),
        returned=returned,
        margin=scoring.margin(racing),
        low_confidence=scoring.low_confidence(best, racing, scorer),
    )


def _best_first(values: Sequence[float], pool: Collection[int]) -> list[int]:
    inside = set(pool)
    return sorted(scoring.order(values), key=lambda i: i not in inside)


def _value(score: Score | None) -> float:
    return score.score if score is not None else float("nan")
