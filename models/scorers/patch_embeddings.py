"""Patch embeddings and padding of open_clip models, for known tower classes."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer


def patch_embeddings(tower: Any, pixels: Any) -> Any | None:
    """Unit vectors (h, w, D) of the patches of one image; None if there are none.

    `pixels` is one preprocessed image (1, 3, H, W).
    """
    if isinstance(tower, VisionTransformer):
        parts = _of_transformer(tower, pixels)
    elif isinstance(tower, TimmModel):
        parts = _of_timm(tower, pixels)
    else:
        return None
    return None if parts is None else torch.nn.functional.normalize(parts, dim=-1)


def strip_padding(model: Any, tokens: Any) -> Any:
    """Tokens (1, T) of one text without trailing padding.

    Only where the text tower masks the padding.
    """
    tower = getattr(model, "text", None)
    if not isinstance(tower, HFTextEncoder):
        return tokens
    kept = torch.nonzero(tokens[0] != tower.config.pad_token_id).flatten()
    return tokens[:, : int(kept[-1]) + 1] if len(kept) else tokens


def _of_transformer(tower: Any, pixels: Any) -> Any | None:
    """The last layer's tokens, after the norm and projection of the pooled token."""
    if tower.attn_pool is not None:
        return None
    tokens = tower.ln_post(tower.transformer(tower._embeds(pixels)))[0, 1:]
    rows, columns = (side // patch for side, patch in zip(pixels.shape[2:], tower.conv1.stride, strict=True))
    return (tokens if tower.proj is None else tokens @ tower.proj).reshape(rows, columns, -1)


def _of_timm(tower: Any, pixels: Any) -> Any | None:
    """The last feature map, projected at each place.

    Its mean is the embedding before normalisation.
    """
    features = tower.trunk.forward_features(pixels)
    if features.ndim != 4 or features.shape[1] != tower.trunk.num_features or hasattr(tower.head, "pool"):
        return None
    return tower.head(features[0].permute(1, 2, 0))
