"""ShieldGemma 2: the probability that an image violates each of its policies.

A vision-language model of Google with 4 billion parameters (Zeng et al. 2025, arXiv 2504.01081). It answers a question
a policy: `dangerous`, `sexual` and `violence` as published. The class is that of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.protocols.safety import SafetyInfo
from models.runtime.load_errors import check_complete, named_errors
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard, quiet_libraries, select_device

NAME = "shieldgemma-2"

THRESHOLD = 0.5
"""Probability from which "Yes, it violates the policy" is the likelier answer."""


class ShieldGemma:
    """See the module. A score for each policy of the processor, in [0, 1]."""

    def __init__(self, model: Any, processor: Any, placement: DevicePlacement, threshold: float | None = None) -> None:
        self._model = model.to(placement.device).eval().requires_grad_(False)
        self._processor = processor
        self._placement = placement
        self._policies = list(processor.policy_definitions)
        self._info = SafetyInfo(NAME, fingerprint(model), THRESHOLD if threshold is None else threshold)

    @property
    def info(self) -> SafetyInfo:
        """See `SafetyClassifier`."""
        return self._info

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """See `SafetyClassifier`. Raises `OutOfMemory`."""
        with memory_guard(), torch.inference_mode():
            return [self._scores(image) for image in images]

    def _scores(self, image: NDArray[np.uint8]) -> Mapping[str, float]:
        """Probabilities of "Yes" by policy, of an image (H, W, 3)."""
        inputs = self._processor(images=[image], policies=self._policies, return_tensors="pt")
        inputs = inputs.to(self._placement.device, self._model.dtype)
        violated = self._model(**inputs, logits_to_keep=1).logits.float().softmax(dim=-1)[:, 0]
        return dict(zip(self._policies, violated.tolist(), strict=True))


def load_shield(place: str, threshold: float | None = None) -> ShieldGemma:
    """Load the model of a folder or hub id, on a GPU if there is one.

    Raises ModelNotFound and ModelUnsupported.
    """
    placement = select_device("auto")
    missing = "the files are not complete: use a folder or hub id with its weights and its processor"
    with quiet_libraries(), named_errors(f"the safety classifier {NAME}", missing=missing, device=placement.device):
        model, told = transformers.ShieldGemma2ForImageClassification.from_pretrained(
            place, dtype=placement.dtype, output_loading_info=True
        )
        check_complete({"model": model}, [(model, frozenset(told["missing_keys"]))], heads=True)
        processor = transformers.ShieldGemma2Processor.from_pretrained(place)
        if not processor.chat_template:
            raise ValueError("no chat template")
    return ShieldGemma(model, processor, placement, threshold)
