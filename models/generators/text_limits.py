"""Text limits of pipelines: the tokenizers' limit, and truncation notices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.protocols import Truncation
from models.runtime import tokenization

_UNKNOWN_LIMIT = 512
_NO_LIMIT = 100_000


class Reader:
    """The tokenizer with the largest limit.

    No text encoder of the pipeline sees what it cuts off.
    """

    def __init__(self, components: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        named = (each for name, each in components.items() if name.startswith("tokenizer") and each is not None)
        found = [getattr(each, "tokenizer", each) for each in named]
        asked = defaults.get("max_sequence_length")
        self._tokenizer, self.limit = None, _UNKNOWN_LIMIT
        for tokenizer in found:
            limit = self._limit(tokenizer, asked)
            if self._tokenizer is None or limit > self.limit:
                self._tokenizer, self.limit = tokenizer, limit

    def cut(self, text: str) -> Truncation | None:
        """The truncation of this text; None if it fits."""
        if self._tokenizer is None:
            return None
        return tokenization.transformers_truncation(self._tokenizer, text, self.limit)

    @staticmethod
    def _limit(tokenizer: Any, asked: Any) -> int:
        own = int(min(getattr(tokenizer, "model_max_length", _NO_LIMIT), _NO_LIMIT))
        clip = "clip" in type(tokenizer).__name__.lower()
        if clip or not isinstance(asked, int):
            return own if own < _NO_LIMIT else _UNKNOWN_LIMIT
        return min(asked, own)
