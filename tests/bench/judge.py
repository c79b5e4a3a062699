"""The second opinion of the gain figures: the judge that was trained apart from the pack and is stored beside this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.gain import Array, Judge

FOLDER = Path(__file__).parent / "judge"


def judge() -> Judge | None:
    """Cosines by the stored judge; None where it is not stored yet."""
    if not (FOLDER / "judge.safetensors").is_file():
        return None
    from models.training import judge as trained

    model = trained.load(FOLDER)

    @torch.inference_mode()
    def scores(prompt: str, images: NDArray[np.uint8]) -> Array:
        pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        found = model.images(pictures) @ model.texts([prompt]).T
        return np.asarray(found[:, 0].numpy(), np.float64)

    return scores
