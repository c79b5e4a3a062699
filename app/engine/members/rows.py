"""Decode and score rows with the main scorer. Engine thread only."""

from __future__ import annotations

from app.engine.ranking import scoring
from app.engine.scheduler import CallPlan
from app.engine.state import paste_sources
from models.protocols import Embedder, Pixels, StepwiseGenerator


def score_rows(generator: StepwiseGenerator, scorer: Embedder, plan: CallPlan, *, preview: bool) -> Pixels:
    """Decode, embed and score the rows of a plan; return the pixels without padding."""
    rows = [*plan.rows, *plan.rows[-1:] * (plan.size - len(plan.rows))]
    pixels = paste_sources(rows, generator.decode([r.latent for r in rows], preview=preview))
    embeddings = scorer.embed_images(pixels)
    for row, embedding in zip(plan.rows, embeddings, strict=False):
        assert row.generation.texts is not None
        row.embedding = embedding
        row.score = scoring.score_images(embedding[None], row.generation.texts.query)[0]
    return pixels[: len(plan.rows)]
