"""The protocol of models that only generate, without torch.

For models without steps, such as remote ones. Adapters turn them into what the engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.protocols.values import Images


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
