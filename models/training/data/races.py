"""Races: candidates of one caption with their previews and final pictures, and what the scorer learns from them.

Beside them stands the composed picture of the caption, once through the autoencoder: what the candidates fall short of.

`previews` draws them; `train_scorer` uses them where they are.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.training.trainers.autoencoder import to_tensor

STEPS = (3, 4, 6, 8)
"""Steps that are done when a preview is taken, of 16."""

HELD_OUT = 16
"""The last captions are for the figure only."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Races of some captions: composed pictures, finals and previews, float32 (B, 3, 64, 64); texts (captions, D)."""

    pictures: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    texts: torch.Tensor

    def apart(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings of the three joined: composed (captions, E), finals and previews (captions, candidates, E)."""
        composed, finals, previews = embedded.split([len(p) for p in self.pictures])
        shape = (len(composed), -1, embedded.shape[1])
        return composed, finals.view(shape), previews.view(shape)


class Races:
    """The cached races: pictures uint8, (captions, candidates, ...)."""

    def __init__(self, path: Path) -> None:
        found = np.load(path)
        self.finals, self.previews, self.composed = found["finals"], found["previews"], found["composed"]
        self.pooled = torch.from_numpy(found["pooled"]).float()

    def batch(self, captions: torch.Tensor, mark: int) -> Batch:
        """The races of these captions with the previews at one mark."""
        rows = captions.numpy()
        each = (self.composed[rows], self.finals[rows], self.previews[rows, :, mark])
        composed, finals, previews = (to_tensor(p.reshape(-1, 64, 64, 3)) for p in each)
        return Batch((composed, finals, previews), self.pooled[captions])

    @property
    def trained(self) -> int:
        """Captions to train on; those after them are held out."""
        return len(self.finals) - HELD_OUT


def agreement(finals: torch.Tensor, previews: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """What it costs that previews are embedded otherwise, and ranked otherwise, than the pictures they become.

    All (captions, candidates, D) and normalised; a scalar. The finals are the target and are not moved.
    """
    target, wanted = finals.detach(), texts.detach()
    apart = 1 - (previews * target).sum(2).mean()
    first, last = (((x * wanted).sum(2)) for x in (previews, target))
    centred = (s - s.mean(1, keepdim=True) for s in (first, last))
    return apart + 1 - functional.cosine_similarity(*centred, dim=1).mean()


def fidelity(composed: torch.Tensor, finals: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What it costs that drawn candidates fit the caption as well as its composed picture does: a scalar.

    composed (captions, D), the others (captions, candidates, D), all normalised.
    """
    logits = scale * torch.cat([(composed * texts[:, 0]).sum(1, keepdim=True), (finals * texts).sum(2)], 1)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def correlations(parts: nn.ModuleDict, races: Races) -> dict[str, float]:
    """Mean correlation of preview and final score over the held-out captions, by steps done."""
    found: dict[str, float] = {}
    with torch.inference_mode():
        for mark, step in enumerate(STEPS):
            raced = races.batch(torch.arange(races.trained, len(races.finals)), mark)
            wanted = functional.normalize(parts["proj"](raced.texts), dim=-1)[:, None]
            embedded = functional.normalize(parts["visual"](torch.cat(raced.pictures)), dim=-1)
            _, finals, previews = raced.apart(embedded)
            scores = [(x * wanted).sum(2) for x in (previews, finals)]
            first, last = (s - s.mean(1, keepdim=True) for s in scores)
            found[f"preview_{step}"] = float(functional.cosine_similarity(first, last, dim=1).mean())
    return found
