"""Races: candidates of one caption with their previews and final pictures, and what the scorer learns from them.

`previews` draws them; `train_scorer` uses them where they are.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.training.train_autoencoder import to_tensor

STEPS = (3, 4, 6, 8)
"""Steps that are done when a preview is taken, of 16."""

HELD_OUT = 16
"""The last captions are for the figure only."""


class Races:
    """The cached races: pictures uint8, (captions, candidates, ...)."""

    def __init__(self, path: Path) -> None:
        found = np.load(path)
        self.finals, self.previews = found["finals"], found["previews"]
        self.pooled = torch.from_numpy(found["pooled"]).float()

    def batch(self, captions: torch.Tensor, mark: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Finals and previews at one mark, float32 (captions * candidates, 3, 64, 64), and pooled texts alike."""
        rows = captions.numpy()
        finals, previews = self.finals[rows], self.previews[rows, :, mark]
        texts = self.pooled[captions].repeat_interleave(finals.shape[1], 0)
        return to_tensor(finals.reshape(-1, 64, 64, 3)), to_tensor(previews.reshape(-1, 64, 64, 3)), texts

    @property
    def trained(self) -> int:
        """Captions to train on; those after them are held out."""
        return len(self.finals) - HELD_OUT


def agreement(finals: torch.Tensor, previews: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """What it costs that previews are embedded and scored otherwise than the pictures they become: a scalar.

    All (B, D) and normalised. The finals are the target and are not moved.
    """
    target = finals.detach()
    apart = 1 - (previews * target).sum(1)
    return apart.mean() + 50 * ((previews - target) * texts.detach()).sum(1).square().mean()


def correlations(parts: nn.ModuleDict, races: Races) -> dict[str, float]:
    """Mean correlation of preview and final score over the held-out captions, by steps done."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for mark, step in enumerate(STEPS):
            finals, previews, texts = races.batch(torch.arange(races.trained, len(races.finals)), mark)
            wanted = functional.normalize(parts["proj"](texts), dim=-1)
            scores = [(functional.normalize(parts["visual"](x), dim=-1) * wanted).sum(1) for x in (previews, finals)]
            first, last = (s.view(HELD_OUT, -1) - s.view(HELD_OUT, -1).mean(1, keepdim=True) for s in scores)
            found[f"preview_{step}"] = float(functional.cosine_similarity(first, last, dim=1).mean())
    return found
