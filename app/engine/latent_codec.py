"""Codec of start latents: float16 arrays to base64 text and back. Pure."""

from __future__ import annotations

import base64

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
