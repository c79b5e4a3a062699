"""The narrow protocols fit models without steps and without embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.protocols import Pixels, Scorer, ScoringInfo, StepRow, embeds
from models.protocols.narrow import GeneratedImages, Generator
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer


class WholeImages:
    """Hides the steps of the synthetic generator."""

    def __init__(self) -> None:
        self._model = FakeGenerator()

    def generate(
        self, prompt: str, negative_prompt: str, seeds: Sequence[int], width: int, height: int
    ) -> GeneratedImages:
        if not seeds:
            raise ValueError("`seeds` must hold at least one seed")
        text, negative = self._model.encode([prompt, negative_prompt])
        schedule = self._model.schedule("ddim", 8, width, height)
        latents = [self._model.noise(seed, width, height, schedule) for seed in seeds]
        for step in range(schedule.steps):
            rows = [
                StepRow(x, text, negative, 3.0, schedule, step, seed) for x, seed in zip(latents, seeds, strict=True)
            ]
            latents = self._model.step(rows, len(rows))
        return GeneratedImages(self._model.decode(latents), tuple(seeds))


class Preference:
    """Hides the embeddings of the synthetic scorer."""

    def __init__(self) -> None:
        self._model = FakeScorer()
        self.info = ScoringInfo("preference", "1", "cpu")

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        (embedded,) = self._model.embed_texts([text])
        return np.asarray(self._model.embed_images(images) @ embedded.vector, np.float32)


def test_a_model_that_only_generates_and_one_that_only_scores() -> None:
    generator: Generator = WholeImages()
    scorer: Scorer = Preference()
    red = generator.generate("a red apple", "", [3, 4, 5], 64, 32)
    assert (red.images.shape, str(red.images.dtype), red.seeds) == ((3, 32, 64, 3), "uint8", (3, 4, 5))
    found, other = scorer.score(red.images, "red"), scorer.score(red.images, "cyan")
    assert (found.shape, str(found.dtype)) == ((3,), "float32")
    assert (found > other).all()
    assert (embeds(scorer), embeds(FakeScorer())) == (False, True)
    with pytest.raises(ValueError, match="at least one seed"):
        generator.generate("a red apple", "", [], 64, 64)
