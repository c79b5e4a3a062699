"""A pipeline's own `__call__` in a greenlet, parked wherever it wants a model.

Owns the greenlet and the proxies that park it. What is answered, and when, is decided by `generator`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from greenlet import greenlet

from models.generators.gate.calls import Call
from models.generators.gate.scheduler import Stepped

REMEMBERED_BYTES = 2**29
"""Bytes of encoded texts that are remembered, of each text encoder and of the pipeline."""


_DRAWING = ("ConsistencyDecoderVAE",)
"""Decoders that draw noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The pipeline has returned."""

    result: Any


Event: TypeAlias = "Call | Stepped | Finished"


class Run:
    """One call of a pipeline. It goes on only in `resume`, and stops at each call of a model and each step made.

    To be resumed and dropped on the thread that made it.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._greenlet = greenlet(work)
        self._greenlet.gr_context = copy_context()
        self.event: Event | None = None

    @property
    def lost(self) -> bool:
        """Whether it has ended, by an error or otherwise."""
        return bool(self._greenlet.dead)

    def resume(self, *answer: Any) -> Event:
        """Answer what it is parked at and let it go on to its next event. What the pipeline raises comes out here."""
        self._greenlet.parent = greenlet.getcurrent()
        self.event = None
        reached = self._greenlet.switch(*answer)
        self.event = Finished(reached) if self._greenlet.dead else reached
        return self.event

    def close(self) -> None:
        """Free what the pipeline holds; it sees `GreenletExit`."""
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.parent = greenlet.getcurrent()
            with torch.inference_mode():  # what it leaves on its way out changes torch's modes, which are put back here
                self._greenlet.throw()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def park(event: Call | Stepped) -> Any:
    """Leave the running pipeline at this event; returns what it is answered. Outside of a run the call is made."""
    current = greenlet.getcurrent()
    if current.parent is None:
        return event.function(*event.bound.args, **event.bound.kwargs) if isinstance(event, Call) else None
    return current.parent.switch(event)


class _Proxy:
    """Stands for a module: passes as one of its class, and has all that it has."""

    def __init__(self, module: Any) -> None:
        self.__dict__["_module"] = module

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__dict__["_module"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_module"], name, value)


class GatedModule(_Proxy):
    """A denoiser whose calls park the pipeline."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.__dict__["_signature"] = inspect.signature(module.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the answer to this call."""
        return park(Call.of(self._module, self._signature, args, kwargs))


class GatedDecoder(_Proxy):
    """An autoencoder whose `decode` parks the pipeline."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        decode = module.decode
        self.__dict__["_decode"] = decode
        self.__dict__["_signature"] = inspect.signature(decode)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the answer to this call, its latents in the type of the weights."""
        if type(self._module).__name__ not in _DRAWING:
            kwargs.pop("generator", None)  # it is taken and not used, and would keep rows apart
        args = tuple(each.to(self.dtype) if isinstance(each, torch.Tensor) else each for each in args)
        return park(Call.of(self._decode, self._signature, args, kwargs))


class RememberedEncoder(_Proxy):
    """A text encoder that makes equal calls once, as long as they are remembered."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.__dict__["_known"] = Remembered()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the call; its tensors are shared."""
        return self._known(plain_key((args, kwargs)), lambda: self._module(*args, **kwargs))


class Remembered:
    """Results by key, those asked for last, as long as their tensors fit into `REMEMBERED_BYTES`."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._size = 0

    def __call__(self, key: Hashable | None, make: Callable[[], Any]) -> Any:
        """The result of that key, made now where it is not known. None is never remembered."""
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


def plain_key(value: Any) -> Hashable | None:
    """A key for arguments made of texts, numbers and small tensors of ids; None for anything else."""
    try:
        return _frozen(value)
    except TypeError:
        return None


def _frozen(value: Any) -> Hashable:
    if value is None or isinstance(value, str | int | float | bool | torch.dtype | torch.device):
        return value
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(_frozen(each) for each in value)
    if isinstance(value, Mapping):
        return tuple((key, _frozen(each)) for key, each in sorted(value.items()))
    if isinstance(value, torch.Tensor) and not value.is_floating_point():
        return tuple(value.shape), value.dtype, value.cpu().contiguous().numpy().tobytes()
    raise TypeError(f"a {type(value).__name__} is no part of a key")


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_bytes(each) for each in value.values())
    return sum(_bytes(each) for each in value) if isinstance(value, list | tuple) else 0
