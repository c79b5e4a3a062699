"""Images, embeddings, truncated texts and traits that cross the protocols.

Without torch.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
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


@dataclass(frozen=True, slots=True)
class WholeImages:
    """Traits of a generator that makes whole images.

    `seeds`: equal seeds give equal images. `steps`: it takes a number of steps. `init_images`: it starts from an image;
    `strengths`: and takes a strength. `masks`: it redraws a marked part of one.
    """

    seeds: bool = False
    steps: bool = False
    init_images: bool = False
    strengths: bool = False
    masks: bool = False


def to_host(pixels: Pixels) -> Images:
    """Pixels as a contiguous NumPy array, copied from the device if needed."""
    host = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    return np.ascontiguousarray(host, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class PreviewHead:
    """Estimates a final image's embedding from that of a preview, step by step.

    estimate = preview + texts @ maps[step] @ images.T @ preview

    `texts` (`dimensions`, `ranks[0]`), `images` (`dimensions`, `ranks[1]`) and `maps` (used steps, `ranks[0]`,
    `ranks[1]`) are base64 of little-endian float32; see `arrays`. `used` says after which steps the estimate predicts
    final scores better than the preview does. `linear_error` and `head_error` decided it, per step: the root mean
    square error of the final scores within a prompt, in units of the score, on prompts that were not fitted.
    """

    dimensions: int
    ranks: tuple[int, int]
    used: tuple[bool, ...]
    linear_error: tuple[float, ...]
    head_error: tuple[float, ...]
    texts: str
    images: str
    maps: str

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """`texts`, `images`, and `maps` of all steps, which are zero where unused.

        Raises ValueError for text that is no base64 of as many finite numbers.
        """
        known = _unpacked(self.maps, (sum(self.used), *self.ranks))
        maps = np.zeros((len(self.used), *self.ranks), np.float32)
        maps[list(self.used)] = known
        sides = ((self.texts, self.ranks[0]), (self.images, self.ranks[1]))
        texts, images = (_unpacked(text, (self.dimensions, rank)) for text, rank in sides)
        return texts, images, maps


def packed(array: NDArray[np.floating]) -> str:
    """An array as base64 of little-endian float32."""
    return b64encode(array.astype("<f4").tobytes()).decode()


def _unpacked(text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        values = np.frombuffer(b64decode(text, validate=True), "<f4").astype(np.float32)
    except ValueError as error:
        raise ValueError("an array of the head must be base64 of float32 numbers") from error
    if values.size != np.prod(shape) or not np.isfinite(values).all():
        raise ValueError(f"an array of the head must hold {shape} finite numbers")
    return values.reshape(shape)
