"""Images, embeddings and truncated texts that cross the protocols.

Without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = Any
"""uint8 (B, H, W, 3), sRGB, in host memory or on the generator's device.

A NumPy array or a torch tensor, see `to_host`.
"""

Images: TypeAlias = NDArray[np.uint8]
"""uint8 (B, H, W, 3), sRGB, in host memory."""

Embeddings: TypeAlias = NDArray[np.float32]
"""float32 (B, D), every row L2-normalised."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """A text that was cut off at the token limit.

    `tokens` is the length of the whole text with special tokens; `dropped` is the lost tail, as text.
    """

    tokens: int
    limit: int
    dropped: str


def to_host(pixels: Pixels) -> Images:
    """Pixels as a contiguous NumPy array, copied from the device if needed."""
    host = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    return np.ascontiguousarray(host, dtype=np.uint8)
