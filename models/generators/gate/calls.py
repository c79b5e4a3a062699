"""Model calls as values: which can be merged, and how results are split again.

Owns signatures, merging along the batch and splitting. Knows tensors and containers, no pipeline and no greenlet.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

BATCH_DIMENSION = {"encoder_hidden_states_llama3": 1}
"""Arguments with rows along another dimension than the first.

HiDream's first dimension is layers.
"""

_TIMES = ("timestep", "timesteps")
_DIGESTS = WeakIdKeyDictionary()


@dataclass(frozen=True, eq=False)
class Call:
    """A call of `function` that a pipeline waits for.

    `bound` holds its arguments by name; `rows` is its batch size.
    """

    function: Callable[..., Any]
    bound: inspect.BoundArguments
    rows: int

    @classmethod
    def of(cls, function: Callable[..., Any], signature: inspect.Signature, args: Any, kwargs: Any) -> Call:
        """Bind the arguments.

        A single time for all rows is expanded to one per row, so that rows at other times can join.
        """
        bound = signature.bind(*args, **kwargs)
        rows = next((len(value) for value in bound.arguments.values() if _has_rows(value)), 1)
        for name in _TIMES:
            time = bound.arguments.get(name)
            if isinstance(time, torch.Tensor) and time.numel() == 1:
                bound.arguments[name] = time.reshape(1).expand(rows)
        return cls(function, bound, rows)

    @cached_property
    def signature(self) -> Hashable:
        """Calls with equal signatures can be merged.

        It holds the shapes of arguments with rows and the values of the others.
        """
        parts = ((name, _key(value, self.rows, name)) for name, value in self.bound.arguments.items())
        return id(self.function), self.rows, tuple(parts)


def together(calls: Sequence[Call]) -> Any:
    """Make calls of one signature as one; the result for all their rows, in order."""
    first = calls[0]
    if len(calls) == 1:
        return first.function(*first.bound.args, **first.bound.kwargs)
    bound = inspect.BoundArguments(first.bound.signature, first.bound.arguments.copy())
    for name in bound.arguments:
        values = [call.bound.arguments[name] for call in calls]
        bound.arguments[name] = _merge(values, first.rows, BATCH_DIMENSION.get(name, 0))
    return first.function(*bound.args, **bound.kwargs)


def part(result: Any, start: int, rows: int, of: int) -> Any:
    """Rows `start` to `start + rows` of a result for `of` rows, in the same container."""
    return _mapped(result, of, lambda tensor: tensor[start : start + rows], start, rows)


def zeros(result: Any, rows: int) -> Any:
    """A result like this one with zeros for `rows` rows.

    It answers a call that is not made.
    """
    return _mapped(result, rows, torch.zeros_like, 0, rows)


def _mapped(value: Any, of: int, change: Callable[[Any], Any], start: int, rows: int) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value) if value.ndim and len(value) == of else value
    if isinstance(value, list) and len(value) == of and all(isinstance(each, torch.Tensor) for each in value):
        chosen = value[start : start + rows]
        return [torch.zeros_like(each) for each in chosen] if change is torch.zeros_like else chosen
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, of, change, start, rows) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: getattr(value, each.name) for each in fields(value)}
        return type(value)(**{name: _mapped(each, of, change, start, rows) for name, each in parts.items()})
    return value


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim > 0)


def _key(value: Any, rows: int | None, name: str = "") -> Hashable:
    """What must be equal for two values to be merged.

    `rows` None: the value is inside a row already.
    """
    if isinstance(value, torch.Tensor):
        if name in BATCH_DIMENSION:
            return tuple(value.shape), value.dtype
        if rows is None or (value.ndim and len(value) == rows):
            return "rows", tuple(value.shape if rows is None else value.shape[1:]), value.dtype
        return tuple(value.shape), value.dtype, _digest(value)
    if isinstance(value, list | tuple):
        inner = None if isinstance(value, list) and len(value) == rows else rows
        return type(value).__name__, tuple(_key(each, inner) for each in value)
    if isinstance(value, dict):
        return tuple((key, _key(each, rows)) for key, each in sorted(value.items()))
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return value
    return "object", id(value)


def _digest(tensor: Any) -> int:
    """A hash of a tensor's values, cached while the tensor lives.

    The tensor may be on a device, where reading it is slow.
    """
    known = _DIGESTS.get(tensor)
    if known is None:
        known = hash(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        _DIGESTS[tensor] = known
    return int(known)


def _merge(values: Sequence[Any], rows: int, dimension: int) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        batched = dimension > 0 or (first.ndim > 0 and len(first) == rows)
        return torch.cat(tuple(values), dimension) if batched else first
    if isinstance(first, list):
        if len(first) == rows and dimension == 0:
            return [each for value in values for each in value]
        return [_merge(each, rows, dimension) for each in zip(*values, strict=True)]
    if isinstance(first, tuple):
        return tuple(_merge(each, rows, dimension) for each in zip(*values, strict=True))
    if isinstance(first, dict):
        return {key: _merge([value[key] for value in values], rows, dimension) for key in first}
    return first
