"""How the candidates of a finished race stand: ranks, shares, near-duplicates and how sure one may be. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from app.domain import Candidate
from app.engine import likeness, ranking
from models.contract import Embeddings, ScorerInfo


@dataclass(frozen=True, slots=True)
class Standing:
    """Candidates with all that a ranking says of them, and what it says of the field."""

    candidates: tuple[Candidate, ...]
    margin: float | None
    low_confidence: bool


def stand(
    candidates: Sequence[Candidate],
    embeddings: Embeddings,
    pool: Sequence[int],
    chosen: Sequence[int],
    scorer: ScorerInfo,
) -> Standing:
    """Where `candidates` (by index, with their scores) stand when `chosen` of the `pool` are returned, best first.

    `embeddings` (N, D) are of all candidates. Those outside the pool were not in the running; they only count as
    near-duplicates, behind the others.
    """
    values = [_value(c) for c in candidates]
    racing = [values[i] for i in pool]
    share = dict(zip(pool, ranking.softmax(racing, scorer.logit_scale), strict=True))
    rank = {index: place + 1 for place, index in enumerate(chosen)}
    alike = likeness.duplicates(embeddings, _best_first(values, pool))
    best = candidates[pool[ranking.order(racing)[0]]].score if racing else None
    return Standing(
        candidates=tuple(
            replace(
                c,
                rank=rank.get(i),
                softmax=share.get(i),
                z_score=ranking.z_score(c.score.text, scorer) if c.score is not None else None,
                duplicate_of=alike.get(i),
            )
            for i, c in enumerate(candidates)
        ),
        margin=ranking.margin(racing),
        low_confidence=ranking.low_confidence(best, racing, scorer),
    )


def _best_first(values: Sequence[float], pool: Collection[int]) -> list[int]:
    inside = set(pool)
    return sorted(ranking.order(values), key=lambda i: i not in inside)


def _value(candidate: Candidate) -> float:
    return candidate.score.score if candidate.score is not None else float("nan")
