"""Stable Diffusion's safety checker: CLIP similarity to fixed concepts.

The class is that of diffusers; folder or hub id hold its weights and its image processor. It compares an image with 17
concepts, of which no list was published, and knows no violence (Rando et al. 2022, arXiv 2210.04610).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelNotFound
from models.protocols.safety import SafetyInfo

NAME = "sd-checker"

SPECIAL_ADJUSTMENT = 0.01
"""What an image near a special concept adds to every score, as in diffusers."""

_BATCH = 8


class ConceptChecker:
    """See the module. One score, `concept`.

    It is by how much the nearest concept exceeds its threshold. Above 0 the image is flagged, as diffusers does.
    """

    def __init__(self, model: Any, processor: Any, revision: str, threshold: float | None = None) -> None:
        self._model = model.eval()
        self._processor = processor
        self._info = SafetyInfo(NAME, revision, 0.0 if threshold is None else threshold)

    @property
    def info(self) -> SafetyInfo:
        """See `SafetyClassifier`."""
        return self._info

    def classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        """See `SafetyClassifier`."""
        import torch

        found: list[Mapping[str, float]] = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                pixels = self._processor(images=list(images[start : start + _BATCH]), return_tensors="pt").pixel_values
                found += [{"concept": score} for score in self._scores(pixels).tolist()]
        return found

    def _scores(self, pixels: Any) -> Any:
        """The greatest excess over a concept's threshold, float (B,)."""
        model = self._model
        vectors = _normalised(model.visual_projection(model.vision_model(pixels).pooler_output))
        special = vectors @ _normalised(model.special_care_embeds).T - model.special_care_embeds_weights
        excess = vectors @ _normalised(model.concept_embeds).T - model.concept_embeds_weights
        near = (special.round(decimals=3) > 0).any(dim=1, keepdim=True)
        return (excess + SPECIAL_ADJUSTMENT * near).max(dim=1).values


def load_concepts(place: str, threshold: float | None = None) -> ConceptChecker:
    """Load the checker of a folder or hub id. Raises ModelNotFound."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    missing = f"the safety checker {Path(place).name!r} is not complete: use a folder or hub id with its weights"
    try:
        model, told = StableDiffusionSafetyChecker.from_pretrained(place, output_loading_info=True)
        processor = CLIPImageProcessor.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ModelNotFound(missing) from error
    if any(not name.endswith("position_ids") for name in told["missing_keys"]):
        raise ModelNotFound(missing)
    return ConceptChecker(model, processor, _revision(model), threshold)


def _normalised(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _revision(model: Any) -> str:
    """Twelve hex digits that change with the weights, of samples of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.flatten()[:: max(1, tensor.numel() // 256)].numpy().tobytes())
    return digest.hexdigest()[:12]
