"""A cache of results that hold tensors, bounded by their bytes. Knows no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

REMEMBERED_BYTES = 2**29
"""Bytes of cached results, for each text encoder and for each pipeline."""


class Remembered:
    """Results by key, least recently used dropped first.

    Their tensors fit into `REMEMBERED_BYTES`.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._size = 0

    def __call__(self, key: Hashable | None, make: Callable[[], Any]) -> Any:
        """The result of a key, made if it is not cached. The key None is never cached."""
        if key is None:
            return make()
        if key not in self._known:
            result = make()
            self._known[key] = result, _bytes(result)
            self._size += self._known[key][1]
            while self._size > REMEMBERED_BYTES and len(self._known) > 1:
                self._size -= self._known.popitem(last=False)[1][1]
        self._known.move_to_end(key)
        return self._known[key][0]


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_bytes(each) for each in value.values())
    return sum(_bytes(each) for each in value) if isinstance(value, list | tuple) else 0
