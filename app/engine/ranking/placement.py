"""Placement of scored images: selection, ranks, softmax, duplicates, confidence.

The single path from scores to a ranked list, for races, re-rankings and uploads. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from app.domain import Candidate, Ranking, Score
from app.engine.ranking import duplicates, probability, scoring
from app.engine.ranking.balance import BalancedField
from models.protocols import Embeddings, MatchCalibration, ScorerInfo


@dataclass(frozen=True, slots=True)
class Placement:
    """The placement of one image; the fields are those of `Candidate`."""

    rank: int | None
    softmax: float | None
    z_score: float | None
    duplicate_of: int | None
    probability: float | None = None

    def apply_to(self, candidate: Candidate, score: Score | None) -> Candidate:
        """Return the candidate with this score and placement."""
        return replace(
            candidate,
            score=score,
            rank=self.rank,
            softmax=self.softmax,
            z_score=self.z_score,
            duplicate_of=self.duplicate_of,
            probability=self.probability,
        )


@dataclass(frozen=True, slots=True)
class Placements:
    """Places of all images, returned indices (best first), statistics of the field.

    `margin_error` is the standard error of the margin; None if it was not measured, or in an ensemble.
    """

    placements: tuple[Placement, ...]
    returned: tuple[int, ...]
    margin: float | None
    margin_error: float | None
    low_confidence: bool


def place_candidates(
    scores: Sequence[Score | None],
    embeddings: Embeddings,
    pool: Sequence[int],
    ranking_params: Ranking,
    n: int,
    scorer: ScorerInfo,
    *,
    combined: bool = False,
    match: MatchCalibration | None = None,
    balanced: BalancedField | None = None,
) -> Placements:
    """Place the images when the best `n` of the `pool` are returned.

    A score of None means not a number. `embeddings` (N, D) cover all images. Images outside the pool are not ranked;
    they only count as near-duplicates, behind the others. `combined` scores are those of an ensemble: their softmax has
    temperature 1, and the confidence is that of the main scorer's own scores. Without a `match` there are no
    probabilities, and `min_probability` excludes every image. With a `balanced` field the best are those within its
    shares.
    """
    values = [_sort_score(s) for s in scores]
    pool_scores = [values[i] for i in pool]
    own = [_own_score(scores[i], scorer) for i in pool] if combined else pool_scores
    known = [probability.match_probability(score, match) for score in scores]
    likely = [s if _is_likely(known[i], ranking_params) else math.nan for i, s in zip(pool, pool_scores, strict=True)]
    places = _select(likely, embeddings, pool, ranking_params, n, balanced)
    returned = tuple(pool[p] for p in places)
    share = dict(zip(pool, scoring.softmax(pool_scores, 1.0 if combined else scorer.logit_scale), strict=True))
    rank = {index: place + 1 for place, index in enumerate(returned)}
    alike = duplicates.find_duplicates(embeddings, _best_first(values, pool))
    best = scores[pool[scoring.rank_order(pool_scores)[0]]] if pool_scores else None
    return Placements(
        placements=tuple(
            Placement(
                rank=rank.get(i),
                softmax=share.get(i),
                z_score=scoring.z_score(s.prompt_similarity, scorer) if s is not None else None,
                duplicate_of=alike.get(i),
                probability=known[i],
            )
            for i, s in enumerate(scores)
        ),
        returned=returned,
        margin=(margin := scoring.margin(pool_scores)),
        margin_error=None if margin is None or combined else probability.margin_error(ranking_params, match),
        low_confidence=scoring.low_confidence(best, own, scorer),
    )


def _select(
    scores: Sequence[float],
    embeddings: Embeddings,
    pool: Sequence[int],
    ranking: Ranking,
    n: int,
    balanced: BalancedField | None,
) -> list[int]:
    """The places of at most `n` images of the pool, best first."""
    least = ranking.min_score
    if balanced is None:
        return scoring.select_best(scores, embeddings[pool], n, diversity=ranking.diversity, min_score=least)
    return balanced.select([math.nan if least is not None and s < least else s for s in scores], pool, n)


def _is_likely(probability: float | None, ranking: Ranking) -> bool:
    """Whether `min_probability` admits an image of this probability."""
    least = ranking.min_probability
    return least is None or (probability is not None and probability >= least)


def _best_first(values: Sequence[float], pool: Collection[int]) -> list[int]:
    inside = set(pool)
    return sorted(scoring.rank_order(values), key=lambda i: i not in inside)


def _sort_score(score: Score | None) -> float:
    return score.score if score is not None else float("nan")


def _own_score(score: Score | None, scorer: ScorerInfo) -> float:
    """The main scorer's own score of an ensemble's score."""
    return score.members[scorer.id] if score is not None else float("nan")
