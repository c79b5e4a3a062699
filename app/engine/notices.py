"""Warnings about a generation's texts, scores and results. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain import Candidate, GenerationSpec, Notice, Score
from app.engine.ranking.scoring import CHANCE_Z, z_score
from models.protocols import Embeddings, ScorerInfo, TextEmbedding, Truncation

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


def unrecognised(texts: Sequence[str], embeddings: Sequence[TextEmbedding]) -> tuple[Notice, ...]:
    """A warning for every text of which the scorer knows nothing. The first text is the prompt, the rest negatives."""
    codes = ("prompt_not_recognised", *["negative_not_recognised"] * (len(texts) - 1))
    detail = "the scorer's vocabulary holds no part of this text, so similarities with it mean nothing"
    return tuple(
        Notice(code, detail, {"text": text})
        for code, text, embedding in zip(codes, texts, embeddings, strict=True)
        if not embedding.recognised
    )


def chance(scores: Sequence[Score | None], scorer: ScorerInfo, notices: Sequence[Notice] = ()) -> tuple[Notice, ...]:
    """A warning when no candidate is more like the prompt than pictures are that have nothing to do with it.

    None when one of `notices` says already that the scorer does not know the prompt.
    """
    if any(notice.code == "prompt_not_recognised" for notice in notices):
        return ()
    known = [z for s in scores if s is not None and (z := z_score(s.text, scorer)) is not None]
    if not known or max(known) >= CHANCE_Z:
        return ()
    detail = "no candidate is more like the prompt than unrelated pictures are: the scorer may not know these words"
    return (Notice("prompt_not_recognised", detail, {"best_z_score": max(known), "limit": CHANCE_Z}),)


def shortfall(spec: GenerationSpec, candidates: Sequence[Candidate]) -> tuple[Notice, ...]:
    """The warning that fewer than `spec.n` of the candidates are returned, if so."""
    missing = spec.n - sum(c.rank is not None for c in candidates)
    if not missing:
        return ()
    if spec.ranking.min_score is None:
        return (Notice("fewer_returned", f"{missing} of the images asked for were pruned or have no score"),)
    return (Notice("below_min_score", f"{missing} of the images asked for did not reach min_score"),)


def truncation_notice(model: str, text: str, truncation: Truncation) -> Notice:
    """The warning for a text that `model` ("generator" or "scorer") did not read to its end."""
    return Notice(
        "prompt_truncated",
        f"the {model} read {truncation.limit} of {truncation.tokens} tokens",
        {
            "model": model,
            "text": text,
            "tokens": truncation.tokens,
            "limit": truncation.limit,
            "dropped": truncation.dropped,
        },
    )


def unsteered_notice(negative: str) -> Notice:
    """The warning for a negative prompt that the generator has no input for."""
    return Notice(
        "negative_prompt_not_steering",
        "this generator has no input for a negative prompt: it does not steer sampling",
        {"text": negative},
    )
