"""Optical character recognition by RapidOCR, whose package holds its ONNX models.

Needs the extra `guards`. Nothing is downloaded. Imported when the first reader is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.protocols.guards import TextInImage

INSTALL = "pip install 'frontrunner[guards]'"
"""What installs the reader."""

THREADS = 1
"""Threads of a reading, so that it leaves the device its processor."""


def is_installed() -> bool:
    """Whether the packages of the reader are installed; imports nothing."""
    return all(find_spec(name) is not None for name in ("rapidocr", "onnxruntime"))


class RapidOcrReader:
    """See the module. Reads one image at a time.

    The first reading loads the models, in about a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Callable[[NDArray[np.uint8]], Any] | None = None

    def read(self, image: NDArray[np.uint8]) -> tuple[TextInImage, ...]:
        """See `TextReader`."""
        with self._lock:
            if self._engine is None:
                self._engine = _load()
            found = self._engine(np.ascontiguousarray(image[:, :, ::-1]))
        if found.boxes is None or found.txts is None:
            return ()
        height, width = image.shape[:2]
        texts = (
            TextInImage(str(text), float(confidence), _bounds(box, width, height))
            for box, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True)
        )
        return tuple(sorted(texts, key=lambda each: -each.confidence))


def _load() -> Callable[[NDArray[np.uint8]], Any]:
    from rapidocr import RapidOCR

    reader: Callable[[NDArray[np.uint8]], Any] = RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": THREADS,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    return reader


def _bounds(box: NDArray[np.float32], width: int, height: int) -> tuple[int, int, int, int]:
    """The rectangle around four corners (4, 2), within the image."""
    left, top = np.floor(box.min(axis=0)).astype(int)
    right, bottom = np.ceil(box.max(axis=0)).astype(int)
    return max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))
