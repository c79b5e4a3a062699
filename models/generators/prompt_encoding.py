"""Prompt encodings of native loops, cached.

The family encodes; the cache is bounded by its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from models.generators.families.base import NativeFamily
from models.loras import Lora
from models.protocols import Conditioning
from models.runtime.placement import DevicePlacement, memory_guard
from models.runtime.remembered import Remembered


class PromptEncoder:
    """Encodes one text at a time and caches the results.

    So the bits of an encoding do not depend on other texts.
    """

    def __init__(self, family: NativeFamily, placement: DevicePlacement) -> None:
        self._family = family
        self._dtype = placement.dtype
        self._known = Remembered()

    def __call__(self, texts: Sequence[str], negative: bool, loras: tuple[Lora, ...]) -> list[Conditioning]:
        """Texts of one role, in order; equal ones share their state.

        `loras` are the active adapters.
        The state is a tuple of tensors without a batch dimension, the first (tokens, ...).
        """
        keys = ((text, negative, loras) for text in texts)
        return [Conditioning(*self._known(key, partial(self._encode, *key[:2]))) for key in keys]

    def _encode(self, text: str, negative: bool) -> tuple[Any, ...]:
        with memory_guard():
            made = self._family.texts(text, negative)
            state = tuple(each.to(self._dtype) if each.is_floating_point() else each for each in made)
        length = int(state[0].shape[0])
        return state, length, self._family.truncation(text), self._family.chunks(length)
