"""CLIP and SigLIP models of transformers as an `Embedder`, PickScore among them.

The processor saved with the model resizes images and pads texts. The engine interprets the cosines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.protocols import Embeddings, Pixels, ScorerInfo, TextEmbedding
from models.runtime import tokenization
from models.runtime.load_errors import check_complete
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard, quiet_libraries
from models.scorers.batching import CACHED_TEXTS, arithmetic, embed_in_batches

MODEL_TYPES = ("clip", "siglip", "siglip2", "metaclip_2")
"""Model types of transformers that this adapter is tested with."""

_PADDED = ("siglip", "siglip2")
"""Model types whose texts are always padded to the limit, as in training."""


class TransformersScorer:
    """A joint embedder of transformers.

    Its weights are float32 on its device, its embeddings float32 on the host. On CUDA the arithmetic is half precision.
    """

    def __init__(self, model: Any, processor: Any, placement: DevicePlacement, *, id: str) -> None:
        """Take a loaded model and its processor."""
        self._model = model.to(placement.device).eval().requires_grad_(False)
        self._processor = processor
        self._placement = placement
        self._limit = int(model.config.text_config.max_position_embeddings)
        self._cached = lru_cache(CACHED_TEXTS)(self._embed_text)
        bias = getattr(model, "logit_bias", None)
        self._info = ScorerInfo(
            id=id,
            revision=fingerprint(model),
            dimensions=len(self._embed_text("").vector),
            image_size=_image_size(model.config.vision_config),
            token_limit=self._limit,
            logit_scale=float(model.logit_scale.detach().exp()),
            device=str(placement.device),
            logit_bias=None if bias is None else float(bias.detach()),
        )

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        return self._info

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size, in order: float32 (B, D) on the host.

        `pixels` is uint8 (B, H, W, 3) on any device. Raises `OutOfMemory`.
        """
        return embed_in_batches(self._embed, pixels, self._placement)

    def _embed(self, images: Any) -> Any:
        return _unit(_features(self._model.get_image_features(**self._prepared(images))))

    def _prepared(self, images: Any) -> dict[str, Any]:
        """The image tower's inputs of uint8 (B, H, W, 3), where the images are."""
        made = self._processor.image_processor(
            list(images.permute(0, 3, 1, 2)), input_data_format="channels_first", return_tensors="pt"
        )
        return {name: each.to(self._placement.device) for name, each in made.items()}

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Patches of one image, float32 (h, w, D).

        None unless the image's embedding is that of a projected token.
        """
        if not hasattr(self._model, "visual_projection"):
            return None
        tower = self._model.vision_model
        with memory_guard(), arithmetic(self._placement):
            prepared = self._prepared(torch.from_numpy(np.ascontiguousarray(image[None])))
            tokens = tower(**prepared).last_hidden_state[0, 1:]
            parts = _unit(self._model.visual_projection(tower.post_layernorm(tokens)))
            patch = self._model.config.vision_config.patch_size
            rows, columns = (side // patch for side in prepared["pixel_values"].shape[2:])
            return np.asarray(parts.reshape(rows, columns, -1).float().cpu().numpy())

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order. Each is computed alone and cached."""
        return [self._cached(text) for text in texts]

    def _embed_text(self, text: str) -> TextEmbedding:
        tokenizer = self._processor.tokenizer
        padding = "max_length" if self._model.config.model_type in _PADDED else False
        tokens = self._processor(
            text=[text], padding=padding, truncation=True, max_length=self._limit, return_tensors="pt"
        )
        with memory_guard(), arithmetic(self._placement):
            features = _features(self._model.get_text_features(**tokens.to(self._placement.device)))
            vector = _unit(features)[0].float().cpu().numpy()
        truncation = tokenization.transformers_truncation(tokenizer, text, self._limit)
        return TextEmbedding(vector, truncation, tokenization.recognised(tokenizer, text))


def load_transformers(place: Path | str, label: str, placement: DevicePlacement) -> TransformersScorer:
    """A joint embedder from a folder or hub id, by its configuration.

    Raises ModelUnsupported for another kind of model, ModelNotFound for missing tensors, and the errors of
    transformers.
    """
    with quiet_libraries():
        config = transformers.AutoConfig.from_pretrained(place)
        if config.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise ModelUnsupported(
                f"a {config.model_type!r} model of transformers does not embed images and texts; use one of {known}, "
                "or an open_clip model"
            )
        model, info = transformers.AutoModel.from_pretrained(place, dtype=torch.float32, output_loading_info=True)
        check_complete({"model": model}, [(model, frozenset(info["missing_keys"]))], heads=True)
        processor = transformers.AutoProcessor.from_pretrained(place)
    return TransformersScorer(model, processor, placement, id=label)


def _features(output: Any) -> Any:
    """The projected embeddings in what transformers returns, a tensor or an object."""
    return getattr(output, "pooler_output", output)


def _unit(features: Any) -> Any:
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _image_size(config: Any) -> int:
    """Side of an image in pixels; of models for any shape, that of a square."""
    size = getattr(config, "image_size", None)
    return int(size) if size else round(config.num_patches**0.5) * int(config.patch_size)
