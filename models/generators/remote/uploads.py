"""Initial images and masks as files, in the forms of the APIs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.protocols.narrow import ImageOrder


def start_file(order: ImageOrder) -> bytes:
    """The initial image of an order as PNG."""
    assert order.start is not None
    return _png(order.start)


def white_mask_file(order: ImageOrder) -> bytes | None:
    """The mask as PNG: white is redrawn; None without a mask."""
    return None if order.mask is None else _png(np.where(order.mask, np.uint8(255), np.uint8(0)))


def transparent_mask_file(order: ImageOrder) -> bytes | None:
    """The mask as PNG: what is transparent is redrawn; None without a mask."""
    if order.mask is None or order.start is None:
        return None
    alpha = np.where(order.mask, np.uint8(0), np.uint8(255))
    return _png(np.concatenate([order.start, alpha[..., None]], axis=2))


def edit_files(order: ImageOrder) -> dict[str, Any]:
    """The files of a form in the shape of OpenAI's edits."""
    files = {"image": ("image.png", start_file(order), "image/png")}
    mask = transparent_mask_file(order)
    return files if mask is None else {**files, "mask": ("mask.png", mask, "image/png")}


def form(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a JSON body as those of a form; without null."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
        if value is not None
    }


def as_text(data: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(data).decode("ascii")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
