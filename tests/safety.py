"""Images in answers of any route, and a classifier's verdict on them."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.guards.safety.synthetic import FakeClassifier

SHORTEST = 60
"""Characters of the shortest base64 of an image."""


def redness(image: NDArray[np.uint8]) -> float:
    """The fake classifier's score."""
    return FakeClassifier().classify([image])[0]["red"]


def shown(answer: httpx.Response) -> list[float]:
    """Scores of every image in an answer: its body, or base64 anywhere in its JSON, events and nested JSON."""
    kind = answer.headers.get("content-type", "")
    if kind.startswith("image/"):
        return [redness(_pixels(answer.content))]
    if "event-stream" in kind:
        lines = (line.removeprefix("data:") for line in answer.text.splitlines() if line.startswith("data:"))
        return [score for line in lines for score in _within(json.loads(line))]
    return list(_within(answer.json())) if answer.content else []


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _within(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _within(each)
    elif isinstance(value, str) and len(value) > SHORTEST:
        if value.startswith("{"):
            yield from _within(json.loads(value))
            return
        try:
            yield redness(_pixels(base64.b64decode(value.rpartition(",")[2], validate=True)))
        except (binascii.Error, UnidentifiedImageError):
            return
