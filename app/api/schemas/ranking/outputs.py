"""How answers say how images were ranked, converted from the domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.api.schemas.base import ResponseModel
from app.api.schemas.flags import FlagName
from app.domain import Negative, Notice, Ranking, Reference, Score
from app.engine.ranking.near_misses import near_misses
from app.engine.texts.readings import read_by_scorer


class NegativeOutput(ResponseModel):
    """A negative and the image's cosine with it."""

    text: str
    weight: float
    similarity: float


class ReferenceOutput(ResponseModel):
    """A reference and the image's cosine with it.

    `generation` and `index` are null for an upload.
    """

    generation: str | None
    index: int | None
    weight: float
    similarity: float


class ScoreOutput(ResponseModel):
    """A score and its parts.

    score = similarity - negative_weight * penalty + taste - contrast.

    `similarity` is the weighted mean over prompt and positive references, `prompt_similarity` that of the prompt alone.
    `contrast` is the similarity to near misses of the prompt. `scores` holds the own score of each scorer by its id.
    In an ensemble `score` is what they combine to, in standard deviations, and the parts are the main scorer's.
    """

    score: float
    scores: dict[str, float]
    similarity: float
    penalty: float
    taste: float
    contrast: float
    prompt_similarity: float
    negatives: list[NegativeOutput]
    references: list[ReferenceOutput]


class RankingNegative(ResponseModel):
    """A negative of a ranking."""

    text: str
    weight: float


class RankingReference(ResponseModel):
    """A reference of a ranking.

    `generation` and `index` are null for an upload, of which only the embedding is stored.
    """

    generation: str | None
    index: int | None
    weight: float


class RankingTaste(ResponseModel):
    """A taste of a ranking; it changes a score by at most `bound`."""

    profile: str
    weight: float
    bound: float


class RankingScorer(ResponseModel):
    """A scorer of an ensemble."""

    name: str
    weight: float


class RefereeOutput(ResponseModel):
    """What a scorer that never ranks says of the winner, and of the median finalist.

    On its own scale; higher is better.
    """

    name: str
    winner: float
    median: float


class RankingBalance(ResponseModel):
    """Shares of the returned images by the values of an attribute."""

    attribute: str
    values: dict[str, float]


class RankingOutput(ResponseModel):
    """The ranking that was used; a re-ranking may have changed `prompt`.

    `scorers` is empty if the main scorer ranks alone. `near_misses` are the texts of `contrast`.
    """

    prompt: str
    negative_weight: float
    negatives: list[RankingNegative]
    diversity: float
    min_score: float | None
    min_probability: float | None
    references: list[RankingReference]
    taste: RankingTaste | None
    veto: list[FlagName]
    scorers: list[RankingScorer]
    uncertainty: float
    contrast: bool
    near_misses: list[str]
    cascade: int | None
    balance: RankingBalance | None


def ranking_output(prompt: str, ranking: Ranking, notices: Sequence[Notice]) -> RankingOutput:
    """Convert a ranking from the domain; `prompt` applies if the ranking has none.

    `notices` are those of its result: they say what the scorer read.
    """
    taste, balance = ranking.taste, ranking.balance
    prompt = prompt if ranking.prompt is None else ranking.prompt
    return RankingOutput(
        prompt=prompt,
        negative_weight=ranking.negative_weight,
        negatives=[RankingNegative(text=n.text, weight=n.weight) for n in ranking.negatives],
        diversity=ranking.diversity,
        min_score=ranking.min_score,
        min_probability=ranking.min_probability,
        references=[
            RankingReference(generation=r.generation, index=r.index, weight=r.weight) for r in ranking.references
        ],
        taste=RankingTaste(profile=taste.profile, weight=taste.weight, bound=taste.bound) if taste else None,
        veto=list(ranking.veto),
        scorers=[RankingScorer(name=use.name, weight=use.weight) for use in ranking.scorers],
        uncertainty=ranking.uncertainty,
        contrast=ranking.contrast,
        near_misses=list(near_misses(read_by_scorer(notices, prompt))) if ranking.contrast else [],
        cascade=ranking.cascade,
        balance=RankingBalance(attribute=balance.attribute, values=dict(balance.values)) if balance else None,
    )


def own_scores(score: Score, scorer: str) -> dict[str, float]:
    """The own score of each scorer by its id.

    Without an ensemble only the main one has a score.
    """
    return dict(score.members) or {scorer: score.score}


def score_fields(
    score: Score, scorer: str, negatives: Sequence[Negative], references: Sequence[Reference]
) -> dict[str, Any]:
    """Fields of `ScoreOutput`; `scorer` is the main scorer's id."""
    return {
        "score": score.score,
        "scores": own_scores(score, scorer),
        "similarity": score.similarity,
        "penalty": score.penalty,
        "taste": score.taste,
        "contrast": score.contrast,
        "prompt_similarity": score.prompt_similarity,
        "negatives": [
            NegativeOutput(text=n.text, weight=n.weight, similarity=s)
            for n, s in zip(negatives, score.negatives, strict=True)
        ],
        "references": [
            ReferenceOutput(generation=r.generation, index=r.index, weight=r.weight, similarity=s)
            for r, s in zip(references, score.references, strict=True)
        ],
    }
