"""Decode and score rows with the main scorer. Engine thread only."""

from __future__ import annotations

from collections.abc import Sequence

from app.engine.ranking import scoring
from app.engine.scheduler import CallPlan
from app.engine.state import ActiveGeneration, Row
from models.protocols import Embedder, Pixels, StepwiseGenerator, to_host


def score_rows(generator: StepwiseGenerator, scorer: Embedder, plan: CallPlan, *, preview: bool) -> Pixels:
    """Decode, embed and score the rows of a plan; return the pixels without padding."""
    rows = [*plan.rows, *plan.rows[-1:] * (plan.size - len(plan.rows))]
    pixels = paste_sources(rows, generator.decode([r.latent for r in rows], preview=preview))
    embeddings = scorer.embed_images(pixels)
    places = dict[ActiveGeneration, list[int]]()
    for place, (row, embedding) in enumerate(zip(plan.rows, embeddings, strict=False)):
        row.embedding = embedding
        places.setdefault(row.generation, []).append(place)
    for run, own in places.items():
        assert run.texts is not None
        for place, score in zip(own, scoring.score_images(embeddings[own], run.texts.query), strict=True):
            plan.rows[place].score = score
    return pixels[: len(plan.rows)]


def paste_sources(rows: Sequence[Row], pixels: Pixels) -> Pixels:
    """The decoded images of rows, with the source's pixels outside their masks.

    Without masks, the pixels stay where they are.
    """
    masked = [(i, r.generation.inputs.inpainting) for i, r in enumerate(rows) if r.generation.inputs is not None]
    if not any(inpainting is not None for _, inpainting in masked):
        return pixels
    images = to_host(pixels).copy()
    for index, inpainting in masked:
        if inpainting is not None:
            images[index] = inpainting.paste(images[index])
    return images
