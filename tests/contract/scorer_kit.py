"""Scorers by name, and their logits as libraries give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.families import LoadContext, Source, load_scorer
from models.protocols import Embedder, Scorer, embeds
from tests.contract.test_scorer import vectors

TEXTS = ["a red apple", "two green cars"]


def embedder(context: LoadContext, name: str) -> Embedder:
    found = load_scorer(context, Source(name))
    assert embeds(found)
    return found


def judge(context: LoadContext, name: str) -> Scorer:
    found = load_scorer(context, Source(name))
    assert not embeds(found)
    return found


def logits(scorer: Embedder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, texts): scaled cosines, with the bias of a model that was trained with a sigmoid."""
    cosines = scorer.embed_images(images) @ vectors(scorer, TEXTS).T
    return np.asarray(scorer.info.logit_scale * cosines + (scorer.info.logit_bias or 0.0))
