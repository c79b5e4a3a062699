"""The second opinion of the gain figures: a CLIP that neither ranks nor calibrates, stored beside this.

It has another image tower than the embedded scorer (resnet10t against regnety_002) and was trained apart from it with
other pictures and captions. It finds names less well: it hears gross differences, not fine ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import loading, open_clip_scorer
from models.pack import Pack
from tests.bench.gain import Array, Judge

FOLDER = Path(__file__).parent / "judge"


def judge() -> Judge:
    """Cosines by the stored judge."""
    pack, placement = Pack.read(FOLDER), loading.place("cpu")
    pack.verify()
    scorer = open_clip_scorer.load_pack(pack, loading.load_text_encoder(pack, placement), placement)

    def scores(prompt: str, images: NDArray[np.uint8]) -> Array:
        return np.asarray(scorer.embed_images(images) @ scorer.embed_texts([prompt])[0].vector, np.float64)

    return scores
