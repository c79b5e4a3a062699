"""Latents as arrays: as base64 text and back, and stacked. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain import InitImage


def encode_init_latents(latents: NDArray[np.float16], strength: float) -> InitImage:
    """Encode the latents (C, h, w) of one image as a start."""
    data = np.ascontiguousarray(latents, "<f2").tobytes()
    return InitImage(strength, latents.shape, base64.b64encode(data).decode("ascii"))


def decode_init_latents(start: InitImage) -> NDArray[np.float16]:
    """Decode the latents (C, h, w) of a start."""
    return np.frombuffer(base64.b64decode(start.latents), "<f2").reshape(start.shape).astype(np.float16)


def stack_latents(latents: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    """The latents (C, h, w) of a field as one array (N, C, h, w).

    Those of whole images are files, (1, 1, length): shorter ones are filled up with zeros.
    """
    longest = max(each.shape[-1] for each in latents)
    if any(each.shape[-1] < longest for each in latents):
        latents = [np.pad(each, ((0, 0), (0, 0), (0, longest - each.shape[-1]))) for each in latents]
    return np.stack(latents)
