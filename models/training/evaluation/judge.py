"""The independent judge: its own image tower and text tower.

Serving never uses it. By `split` it shares no icon set with the scorers; the stored one, which is older, saw four of
the generator's six styles. The text tower is a bag of hashed words and letter triples with its own trained
embeddings. So the judge shares neither weights nor vocabulary with the packaged sentence encoder.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

TOWER, WIDTH, BUCKETS = "resnet10t", 256, 6144


def buckets(text: str) -> list[int]:
    """Hash buckets of the words and of the letter triples of a text."""
    words = text.lower().replace("-", " ").replace("’", "").split()
    pieces = [*words, *(f"^{w}$"[i : i + 3] for w in words for i in range(len(w)))]
    return [int.from_bytes(hashlib.blake2s(p.encode(), digest_size=4).digest(), "big") % BUCKETS for p in pieces]


class Judge(nn.Module):
    """Maps pictures and names to one space of 256 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.image = timm.create_model(TOWER, pretrained=False, num_classes=WIDTH)
        self.bag = nn.EmbeddingBag(BUCKETS, 192, mode="mean")
        self.text = nn.Sequential(nn.Linear(192, 384), nn.GELU(), nn.Linear(384, WIDTH))
        self.scale = nn.Parameter(torch.tensor(2.6))

    def texts(self, phrases: Sequence[str]) -> torch.Tensor:
        """float32 (B, 256), normalised."""
        found = [buckets(p) for p in phrases]
        offsets = torch.tensor([0, *(len(f) for f in found[:-1])]).cumsum(0)
        bag = self.bag(torch.tensor([b for f in found for b in f]), offsets)
        return functional.normalize(self.text(bag), dim=-1)

    def images(self, pictures: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, 64, 64) in [-1, 1] -> float32 (B, 256), normalised."""
        return functional.normalize(self.image(pictures), dim=-1)

    def logits(self, features: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
        """Logits (B, N) of pictures over the embedded names (N, 256).

        `features`: image features (B, 256) of the pictures.
        """
        return self.scale.exp().clamp(max=100) * functional.normalize(features, dim=-1) @ names.T


def save(judge: Judge, folder: Path, figures: dict[str, float]) -> None:
    """Writes judge.safetensors (float16) and judge.json (figures)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")
    (folder / "judge.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def load(folder: Path) -> Judge:
    """The stored judge in float32, in evaluation mode."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(folder / "judge.safetensors").items()})
    return judge.eval()
