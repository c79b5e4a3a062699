"""Races and their losses for the scorer.

A race holds the candidates of one caption, with their previews and final pictures. It also holds the composed picture
of the caption after encoding and decoding by the autoencoder: the quality that the candidates do not reach. Pixel
checks tell which candidates show what the caption states.

`previews` samples races; the trainer of the scorer uses them if they exist.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models.training.trainers.autoencoder import to_tensor

STEPS = (3, 4, 6, 8)
"""Completed steps, of 16, at which previews are taken."""

HELD_OUT = 16
"""Number of last captions that are used only for the figure."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Races of some captions.

    `pictures`: composed, final and preview pictures, each float32 (B, 3, 64, 64). `texts`: (captions, D). `shown`:
    share of the checked attributes that each final picture shows, (captions, candidates).
    """

    pictures: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    texts: torch.Tensor
    shown: torch.Tensor

    def apart(self, embedded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Splits the joined embeddings of the three kinds of pictures.

        Returns composed (captions, E), finals and previews (captions, candidates, E).
        """
        composed, finals, previews = embedded.split([len(p) for p in self.pictures])
        shape = (len(composed), -1, embedded.shape[1])
        return composed, finals.view(shape), previews.view(shape)


class Races:
    """The cached races.

    Final and preview pictures are uint8 (captions, candidates, ...).
    """

    def __init__(self, path: Path) -> None:
        found = np.load(path)
        self.finals, self.previews, self.composed = found["finals"], found["previews"], found["composed"]
        self.pooled = torch.from_numpy(found["pooled"]).to(torch.get_default_device()).float()
        self.shown = torch.from_numpy(found["shown"]).to(torch.get_default_device()).float()

    def batch(self, captions: torch.Tensor, mark: int) -> Batch:
        """The races of these captions, with the previews at step `STEPS[mark]`."""
        rows = captions.cpu().numpy()
        each = (self.composed[rows], self.finals[rows], self.previews[rows, :, mark])
        composed, finals, previews = (to_tensor(p.reshape(-1, 64, 64, 3)) for p in each)
        return Batch((composed, finals, previews), self.pooled[captions], self.shown[captions])

    @property
    def trained(self) -> int:
        """Number of captions to train on; later captions are held out."""
        return len(self.finals) - HELD_OUT


def agreement(finals: torch.Tensor, previews: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Loss on previews whose embeddings or ranks differ from their final pictures.

    All arguments are (captions, candidates, D) and normalised; the result is a scalar. The finals and texts get no
    gradient.
    """
    target, wanted = finals.detach(), texts.detach()
    apart = 1 - (previews * target).sum(2).mean()
    first, last = (((x * wanted).sum(2)) for x in (previews, target))
    centred = (s - s.mean(1, keepdim=True) for s in (first, last))
    return apart + 1 - functional.cosine_similarity(*centred, dim=1).mean()


def fidelity(composed: torch.Tensor, finals: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Loss on candidates that fit the caption as well as its composed picture.

    `composed` is (captions, D); `finals` and `texts` are (captions, candidates, D). All are normalised; the result is a
    scalar.
    """
    logits = scale * torch.cat([(composed * texts[:, 0]).sum(1, keepdim=True), (finals * texts).sum(2)], 1)
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def checked(finals: torch.Tensor, texts: torch.Tensor, shown: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Loss on candidates that show fewer attributes than others, and score as high.

    `finals` and `texts` are (captions, candidates, D) and normalised, `shown` is (captions, candidates); the result is
    a scalar.
    """
    scores = scale * (finals * texts).sum(2)
    better = (shown[:, :, None] > shown[:, None, :]).float()
    wrong = functional.softplus(scores[:, None, :] - scores[:, :, None])
    return (wrong * better).sum() / better.sum().clamp(min=1)


def correlations(parts: nn.ModuleDict, races: Races) -> dict[str, float]:
    """Mean correlation of preview and final scores, by completed steps.

    The mean is over the held-out captions.
    """
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
