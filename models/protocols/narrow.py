"""Protocols of models that only generate or only score, without torch.

For models without steps or embeddings, such as remote ones. Adapters turn them into what the engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.protocols import Images, Pixels


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedImages:
    """Images of one call of `Generator.generate`, and the seed of each."""

    images: Images
    seeds: tuple[int, ...]


class Generator(Protocol):
    """A model that makes whole images of a prompt, such as a remote one.

    It has no steps that the engine could batch, prune or preview.
    """

    def generate(
        self, prompt: str, negative_prompt: str, seeds: Sequence[int], width: int, height: int
    ) -> GeneratedImages:
        """One image per seed, in order; width and height in pixels.

        The empty negative prompt stands for none. The result holds the seeds that were used, which may differ from
        those requested. Equal arguments give equal images only if the model is deterministic. Raises ValueError for a
        size that the model cannot make or for no seeds, and `OutOfMemory`.
        """
        ...


class Scorer(Protocol):
    """A model that scores images against a text, such as a preference model.

    It has no embeddings that could be stored, averaged or compared with other texts later.
    """

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Scores of images of one size, on any device, in order: float32 (B,).

        Finite, higher is better. The scale is the model's own: compare scores of one model and one text only. Raises
        `OutOfMemory`.
        """
        ...
