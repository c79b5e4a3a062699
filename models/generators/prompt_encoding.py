"""Prompt encodings for Stable Diffusion denoisers: SD, SDXL and packs.

Owns the cache of encoded texts and the truncation notice. The pipeline encodes; this module knows no steps or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from models.protocols import Conditioning
from models.runtime import tokenization
from models.runtime.placement import memory_guard

_CACHED_TEXTS = 256


@dataclass(frozen=True, slots=True, eq=False)
class TextState:
    """Encoded text on the device.

    `hidden` (T, D) is for cross-attention, `pooled` (P,) for denoisers that need it (SDXL).
    """

    hidden: Any
    pooled: Any | None


class PromptEncoder:
    """Encodes one text at a time and caches the results.

    So the bits of an encoding do not depend on other texts.
    """

    def __init__(self, pipe: Any, device: Any, dtype: Any) -> None:
        self._pipe = pipe
        self._device = device
        self._dtype = dtype
        self._xl = getattr(pipe, "text_encoder_2", None) is not None
        self._tokenizers = [pipe.tokenizer, pipe.tokenizer_2] if self._xl else [pipe.tokenizer]
        self.token_limit = int(self._tokenizers[0].model_max_length)
        self._cached = lru_cache(_CACHED_TEXTS)(self._encode)

    def __call__(self, texts: Sequence[str]) -> list[Conditioning]:
        """Texts in order; equal ones share their state."""
        return [self._cached(text) for text in texts]

    def _encode(self, text: str) -> Conditioning:
        with memory_guard():
            encoded = self._pipe.encode_prompt(
                prompt=text, device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            hidden = encoded[0][0].to(self._dtype)
            pooled = encoded[2][0].to(self._dtype) if self._xl else None
            if self._xl and not text and self._pipe.config.force_zeros_for_empty_prompt:
                hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        cuts = [tokenization.transformers_truncation(each, text, self.token_limit) for each in self._tokenizers]
        return Conditioning(TextState(hidden, pooled), hidden.shape[0], next((cut for cut in cuts if cut), None))
