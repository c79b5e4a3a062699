"""The narrow protocol of scorers fits models without embeddings; that of generators is in `test_orders`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.protocols import Pixels, Scorer, ScoringInfo, embeds
from models.synthetic.scorer import FakeScorer


class Preference:
    """Hides the embeddings of the synthetic scorer."""

    def __init__(self) -> None:
        self._model = FakeScorer()
        self.info = ScoringInfo("preference", "1", "cpu")

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        (embedded,) = self._model.embed_texts([text])
        return np.asarray(self._model.embed_images(images) @ embedded.vector, np.float32)


def test_a_model_that_only_scores() -> None:
    scorer: Scorer = Preference()
    red = np.full((3, 32, 64, 3), (255, 0, 0), np.uint8)
    found, other = scorer.score(red, "red"), scorer.score(red, "cyan")
    assert (found.shape, str(found.dtype)) == ((3,), "float32")
    assert (found > other).all()
    assert (embeds(scorer), embeds(FakeScorer())) == (False, True)
