"""Any open_clip model as a `Embedder`.

Owns batching, the cache of text embeddings and the loading of named models and packs. `image_transforms` resizes
images. The engine interprets the cosines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from models.errors import ModelNotFound, ModelUnsupported, PackCorrupt
from models.pack import Pack
from models.protocols import Embeddings, Pixels, ScorerInfo, TextEmbedding, Truncation
from models.protocols.readings import ReadText, encode_as_read, read_as_is
from models.runtime import tokenization
from models.runtime.placement import (
    FILE_ERRORS,
    DevicePlacement,
    TextEncoder,
    fingerprint,
    memory_guard,
    quiet_libraries,
)
from models.scorers import patch_embeddings
from models.scorers.batching import CACHED_TEXTS, arithmetic, embed_in_batches
from models.scorers.float_transform import FloatTransform
from models.scorers.image_transforms import ImageTransform

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_SHARED = "text.transformer."


class OpenClipScorer:
    """A CLIP with float32 weights on its device and float32 embeddings on the host.

    On CUDA the arithmetic is half precision.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Mapping[str, Any],
        placement: DevicePlacement,
        *,
        id: str,
        revision: str | None = None,
        null: Mapping[str, float] | None = None,
        read: ReadText = read_as_is,
    ) -> None:
        """Take a loaded model, its tokenizer and its preprocess configuration.

        `null` may hold `mean` and `std` of the cosines of images with unrelated texts. `read` says what is embedded
        instead of a text.
        """
        self._read = read
        self._model = model.to(placement.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._placement = placement
        self._preprocess = ImageTransform(preprocess, placement.device)
        self._smooth = FloatTransform(self._preprocess)
        self._embedded = placement.traced(partial(self._model.encode_image, normalize=True))
        self._cached = lru_cache(CACHED_TEXTS)(self._embed_text)
        null = null or {}
        self._info = ScorerInfo(
            id=id,
            revision=revision or fingerprint(model),
            dimensions=len(self._embed_text("").vector),
            image_size=max(self._preprocess.size),
            token_limit=int(tokenizer.context_length),
            logit_scale=float(model.logit_scale.detach().exp()),
            logit_bias=None if model.logit_bias is None else float(model.logit_bias.detach()),
            device=str(placement.device),
            null_mean=null.get("mean"),
            null_std=null.get("std"),
        )

    @property
    def info(self) -> ScorerInfo:
        """Name and limits; constant."""
        return self._info

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """Embeddings of images of one size, in order: float32 (B, D) on the host.

        `pixels` is uint8 (B, H, W, 3) on any device. The tower runs on batches of at most 32. Raises `OutOfMemory`.
        """
        return embed_in_batches(self._embed, pixels, self._placement)

    def embed_differentiable(self, images: Any) -> Any:
        """Unit vectors float32 (B, D) with gradients, of images (B, 3, H, W) in 0..255.

        Call it with gradients enabled, outside of inference mode.
        """
        with arithmetic(self._placement):
            return self._model.encode_image(self._smooth(images), normalize=True).float()

    def _embed(self, images: Any) -> Any:
        return self._embedded(self._preprocess(images))

    def embed_patches(self, image: NDArray[np.uint8]) -> Embeddings | None:
        """Patches of one image, float32 (h, w, D).

        For ViTs, and for convolutional towers with mean pooling; else None.
        """
        with memory_guard(), arithmetic(self._placement):
            pixels = self._preprocess(torch.from_numpy(image[None]).to(self._placement.device))
            parts = patch_embeddings.patch_embeddings(self._model.visual, pixels)
            return None if parts is None else np.asarray(parts.float().cpu().numpy())

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embeddings of texts, in order. Each is computed alone and cached."""
        return encode_as_read(texts, self._read, lambda understood: [self._cached(text) for text in understood])

    def _embed_text(self, text: str) -> TextEmbedding:
        with memory_guard(), arithmetic(self._placement):
            tokens = patch_embeddings.strip_padding(self._model, self._tokenizer([text])).to(self._placement.device)
            vector = self._model.encode_text(tokens, normalize=True)[0].float().cpu().numpy()
        return TextEmbedding(vector, _truncation(self._tokenizer, text), _recognised(self._tokenizer, text))


def load_open_clip(name: str, label: str, placement: DevicePlacement) -> OpenClipScorer:
    """A model by open_clip's name.

    `ViT-B-32/laion2b_s34b_b79k`, `hf-hub:...` or `local-dir:...`. `label` is its name in answers and errors. Raises
    ModelNotFound and ModelUnsupported, and the errors of open_clip for the files of a folder.
    """
    schema, place = open_clip.factory.parse_model_name(name)
    model_name, pretrained = (name, None) if schema else _split(name)
    with quiet_libraries():
        try:
            model = open_clip.create_model_from_pretrained(model_name, pretrained, return_transform=False)
            tokenizer = open_clip.get_tokenizer(model_name)
        except (RuntimeError, *FILE_ERRORS) as error:
            if schema == "local-dir" and Path(place).is_dir():
                raise
            raise ModelNotFound("no such model, or its hub is unreachable") from error
    return OpenClipScorer(model, tokenizer, model.visual.preprocess_cfg, placement, id=label)


def is_architecture(name: str) -> bool:
    """Whether open_clip has a model architecture of this name."""
    return open_clip.get_model_config(name) is not None


def load_pack(pack: Pack, text_encoder: TextEncoder, placement: DevicePlacement, read: ReadText) -> OpenClipScorer:
    """The scorer of a pack, with the given text encoder; `read` is its text front.

    Raises PackCorrupt if its weights do not fit.
    """
    config = json.loads((pack.scorer / CONFIG).read_text())
    text_config = config["model_cfg"]["text_cfg"]
    text_config["hf_model_name"] = text_config["hf_tokenizer_name"] = str(text_encoder.folder)
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**config["model_cfg"])
    model.text.transformer = text_encoder.model
    weights = load_file(pack.scorer / WEIGHTS)
    weights = {name: each.float() if each.is_floating_point() else each for name, each in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if unexpected or any(not name.startswith(_SHARED) for name in missing):
        raise PackCorrupt(f"pack {pack.id!r}: the scorer's weights do not match its configuration")
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(text_encoder.folder), context_length=text_config["context_length"], local_files_only=True
    )
    size = {"size": model.visual.image_size}
    preprocess = open_clip.transform.merge_preprocess_dict(
        open_clip.transform.PreprocessCfg(), config["preprocess_cfg"] | size
    )
    null = pack.manifest["scorer"].get("null")
    names: dict[str, Any] = {"id": pack.id, "revision": pack.scorer_revision}
    return OpenClipScorer(model, tokenizer, preprocess, placement, null=null, read=read, **names)


def read_pack_info(pack: Pack, placement: DevicePlacement) -> ScorerInfo:
    """What `load_pack` will report of a pack's scorer, without loading it.

    Raises PackCorrupt.
    """
    try:
        config = json.loads((pack.scorer / CONFIG).read_text())["model_cfg"]
        with safe_open(pack.scorer / WEIGHTS, "pt") as file:
            scale = file.get_tensor("logit_scale").float().exp()
        null = pack.manifest["scorer"].get("null") or {}
        return ScorerInfo(
            id=pack.id,
            revision=pack.scorer_revision,
            dimensions=int(config["embed_dim"]),
            image_size=int(config["vision_cfg"]["image_size"]),
            token_limit=int(config["text_cfg"]["context_length"]),
            logit_scale=float(scale),
            device=str(placement.device),
            null_mean=null.get("mean"),
            null_std=null.get("std"),
        )
    except (*FILE_ERRORS, KeyError, TypeError) as error:
        raise PackCorrupt(f"pack {pack.id!r}: its configuration or its weights are unreadable") from error


def _split(name: str) -> tuple[str, str]:
    """`model/pretrained`, separated.

    Raises ModelUnsupported if open_clip would use the wrong activation.
    """
    model_name, _, pretrained = name.partition("/")
    config = open_clip.get_model_config(model_name)
    if config is None or not pretrained:
        raise ModelNotFound(
            "not found; use a pack, a folder, a hub id OWNER/NAME, hf-hub:OWNER/NAME or NAME/PRETRAINED"
        )
    tag = open_clip.get_pretrained_cfg(model_name, pretrained)
    if tag and tag.get("quick_gelu", False) != config.get("quick_gelu", False):
        raise ModelUnsupported(f"it needs another activation; use {model_name}-quickgelu/{pretrained}")
    return model_name, pretrained


def _truncation(tokenizer: Any, text: str) -> Truncation | None:
    limit = int(tokenizer.context_length)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        return tokenization.measure_truncation(tokenizer.encode(text), 2, limit, tokenizer.decode)
    special = 3 if getattr(tokenizer, "tokenizer_mode", "") == "clips" else None
    return tokenization.transformers_truncation(inner, _clean(tokenizer, text), limit, special)


def _recognised(tokenizer: Any, text: str) -> bool:
    """Whether the vocabulary holds a part of the text.

    open_clip's own tokenizers encode unknown text as bytes.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        return len(tokenizer.encode(text)) > 0
    return tokenization.recognised(inner, _clean(tokenizer, text))


def _clean(tokenizer: Any, text: str) -> str:
    cleaned: str = getattr(tokenizer, "clean_fn", open_clip.tokenizer.canonicalize_text)(text)
    return cleaned
