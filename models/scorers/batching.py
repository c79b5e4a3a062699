"""What the embedders share: batches of images, and the arithmetic of the device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from models.protocols import Embeddings, Pixels
from models.runtime.placement import DevicePlacement, memory_guard

CACHED_TEXTS = 1024
"""Texts whose embeddings an embedder remembers."""

_BATCH = 32
_MIN_ROWS = 4
"""Rows of a part of a batch.

In parts of two, the embedded model's image tower gave other bits for the first row than for the second.
"""


def embed_in_batches(embed: Callable[[Any], Any], pixels: Pixels, placement: DevicePlacement) -> Embeddings:
    """Embeddings of images of one size, float32 (B, D) on the host.

    `embed` maps uint8 (b, H, W, 3) on the device to (b, D). Raises `OutOfMemory`.
    """
    with memory_guard(), arithmetic(placement):
        embedded = [
            placement.parallel(embed, part.to(placement.device), min_rows=_MIN_ROWS)
            for part in as_tensor(pixels).split(_BATCH)
        ]
        return np.asarray(torch.cat(embedded).float().cpu().numpy())


def as_tensor(pixels: Pixels) -> Any:
    """Pixels as a tensor, where they are."""
    return torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels


def arithmetic(placement: DevicePlacement) -> AbstractContextManager[Any]:
    """The placement's half precision on an accelerator, float32 on a host."""
    if placement.on_cpu or placement.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(placement.device.type, dtype=placement.dtype)
