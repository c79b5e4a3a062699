"""What a caller may want to know of the words that were asked: pure functions over unit embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain import Notice, Score
from app.engine.ranking import CHANCE_Z, z_score
from models.contract import Embeddings, ScorerInfo

CONTRADICTION = 0.9
"""Cosine of a negative with the prompt from which on the one takes away what the other asks for."""


def contradictions(texts: Sequence[str], vectors: Embeddings) -> tuple[Notice, ...]:
    """A warning for every negative that says what the prompt says. The first text is the prompt, the rest negatives."""
    cosines = vectors[1:] @ vectors[0]
    return tuple(
        Notice(
            "negative_contradicts_prompt",
            "to the scorer this negative means nearly the same as the prompt",
            {"text": text, "similarity": float(cosine), "limit": CONTRADICTION},
        )
        for text, cosine in zip(texts[1:], cosines, strict=True)
        if cosine >= CONTRADICTION
    )


def chance(scores: Sequence[Score | None], scorer: ScorerInfo) -> tuple[Notice, ...]:
    """A warning when no candidate is more like the prompt than pictures are that have nothing to do with it."""
    known = [z for s in scores if s is not None and (z := z_score(s.text, scorer)) is not None]
    if not known or max(known) >= CHANCE_Z:
        return ()
    detail = "no candidate is more like the prompt than unrelated pictures are: the scorer may not know these words"
    return (Notice("prompt_not_recognised", detail, {"best_z_score": max(known), "limit": CHANCE_Z}),)
