"""The second opinion of the gain figures: the outside judge, stored beside this, which neither ranks nor calibrates.

It has another image tower and other text features than the embedded scorer and was never shown the generator's styles.
It knows things by name and nothing of backgrounds.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.training.data import icons
from models.training.evaluation import judge as outside
from models.training.trainers.autoencoder import to_tensor
from models.training.trainers.scorer import say
from tests.bench.gain import Array, Judge

FOLDER = Path(__file__).parent / "judge"
_ROUND_IT = re.compile("^an? | on an? .*")


def judge() -> Judge:
    """Log-probabilities of the prompt's thing among all names."""
    model, names = outside.load(FOLDER), icons.pack_names()
    place = {said: i for i, n in enumerate(names) for said in (n, say(n))}
    with torch.inference_mode():
        embedded = model.texts([say(n) for n in names])

    def scores(prompt: str, images: NDArray[np.uint8]) -> Array:
        with torch.inference_mode():
            logits = model.logits(model.image(to_tensor(images)), embedded)
        return np.asarray(logits.log_softmax(1)[:, place[_ROUND_IT.sub("", prompt)]], np.float64)

    return scores
