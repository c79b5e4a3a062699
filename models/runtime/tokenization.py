"""How much of a text a tokenizer keeps. Torch-free; loads no tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.protocols import Truncation


def measure_truncation(
    ids: list[int], special: int, limit: int, decode: Callable[[list[int]], str]
) -> Truncation | None:
    """What is cut off a text of these ids; None for nothing.

    `special` more ids are added, and `limit` are kept.
    """
    room = limit - special
    if len(ids) <= room:
        return None
    return Truncation(tokens=len(ids) + special, limit=limit, dropped=decode(ids[room:]).strip())


def transformers_truncation(tokenizer: Any, text: str, limit: int, special: int | None = None) -> Truncation | None:
    """The same for a transformers tokenizer, which knows its own special tokens."""
    ids = _ids(tokenizer, text)
    return measure_truncation(
        ids, tokenizer.num_special_tokens_to_add() if special is None else special, limit, tokenizer.decode
    )


def recognised(tokenizer: Any, text: str) -> bool:
    """Whether the vocabulary of a transformers tokenizer holds any part of the text."""
    return any(each != tokenizer.unk_token_id for each in _ids(tokenizer, text))


def knows(tokenizer: Any, text: str) -> bool:
    """Whether the vocabulary of a transformers tokenizer holds every part of the text."""
    ids = _ids(tokenizer, text)
    return bool(ids) and tokenizer.unk_token_id not in ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    return ids
