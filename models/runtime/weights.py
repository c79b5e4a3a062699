"""The size of loaded weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from models.protocols import Models

_DEPTH = 3


def weight_bytes(models: Models) -> int:
    """Bytes of all parameters and buffers; what parts share counts once."""
    parts = (models.generator, models.scorer, *models.members, models.referee, models.upscaler)
    tensors = dict[int, torch.Tensor]()
    for module in modules_of(*parts):
        tensors |= {id(each): each for each in (*module.parameters(), *module.buffers())}
    return sum(each.nbytes for each in tensors.values())


def modules_of(*parts: Any) -> list[torch.nn.Module]:
    """The modules that adapters hold, directly or in a pipeline; each once."""
    return list({id(module): module for part in parts for module in _modules(part, _DEPTH)}.values())


def _modules(part: Any, depth: int) -> Iterator[torch.nn.Module]:
    """The modules that an adapter holds, directly or in a pipeline of diffusers."""
    if isinstance(part, torch.nn.Module):
        yield part
    elif depth:
        for each in _members(part):
            yield from _modules(each, depth - 1)


def _members(part: Any) -> Iterator[Any]:
    if isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, list | tuple):
        yield from part
    elif isinstance(components := getattr(part, "components", None), Mapping):
        yield from components.values()
    elif type(part).__module__.startswith("models."):
        yield from getattr(part, "__dict__", {}).values()
