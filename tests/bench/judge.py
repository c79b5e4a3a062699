"""The second opinion of the gain figures: the outside judge, stored beside this, which neither ranks nor calibrates.

It has another image tower and other text features than the embedded scorer. Of the generator's six styles it was
trained on all but noto and twemoji. It knows things by name and nothing of backgrounds.
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
from tests.bench.gain import Array

FOLDER = Path(__file__).parent / "judge"
TOP = 5
_ROUND_IT = re.compile("^an? | on an? .*")


class OutsideJudge:
    """Log-probabilities of the prompt's thing among all names, float64 (N,)."""

    def __init__(self, device: str) -> None:
        names = icons.pack_names()
        self._place = {said: i for i, n in enumerate(names) for said in (n, say(n))}
        self._device = torch.device(device)
        model = outside.load(FOLDER)
        with torch.inference_mode():
            self._names = model.texts([say(n) for n in names]).to(self._device)
        self._model = model.to(self._device)

    def __call__(self, prompt: str, images: NDArray[np.uint8]) -> Array:
        """Scores of images (N, 64, 64, 3) for a prompt."""
        return np.asarray(self._all(images)[:, self._thing(prompt)].cpu(), np.float64)

    def top(self, prompt: str, images: NDArray[np.uint8]) -> Array:
        """1 where the thing is among the `TOP` likeliest names, (N,)."""
        return np.asarray((self._all(images).topk(TOP).indices == self._thing(prompt)).any(1).cpu(), np.float64)

    def _thing(self, prompt: str) -> int:
        return self._place[_ROUND_IT.sub("", prompt)]

    def _all(self, images: NDArray[np.uint8]) -> torch.Tensor:
        with torch.inference_mode():
            features = self._model.image(to_tensor(images).to(self._device))
            return self._model.logits(features, self._names).log_softmax(1)


def judge(device: str = "cpu") -> OutsideJudge:
    """The stored judge on a device."""
    return OutsideJudge(device)
