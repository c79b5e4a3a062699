"""A pipeline's own `__call__` in a greenlet, parked at each model call.

Owns the greenlet and the proxies that park it. `generator` decides what is answered, and when.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from greenlet import greenlet

from models.generators.gate.calls import Call
from models.generators.gate.scheduler_proxy import Stepped
from models.runtime.remembered import Remembered

_DRAWING = ("ConsistencyDecoderVAE",)
"""Decoders that draw noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """The pipeline has returned."""

    result: Any


Event: TypeAlias = "Call | Stepped | Finished"


class Run:
    """One call of a pipeline.

    It runs only in `resume`, and stops at each model call and after each scheduler step. Resume and drop it on the
    thread that made it.
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
        """Answer the event it is parked at and run to the next event.

        Raises what the pipeline raises.
        """
        self._greenlet.parent = greenlet.getcurrent()
        self.event = None
        reached = self._greenlet.switch(*answer)
        self.event = Finished(reached) if self._greenlet.dead else reached
        return self.event

    def close(self) -> None:
        """Free what the pipeline holds; it gets `GreenletExit`."""
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.parent = greenlet.getcurrent()
            with torch.inference_mode():  # restores torch's modes, which the pipeline changes on exit
                self._greenlet.throw()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def park(event: Call | Stepped) -> Any:
    """Leave the running pipeline with this event; returns the answer.

    Outside of a run the call is made.
    """
    current = greenlet.getcurrent()
    if current.parent is None:
        return event.function(*event.bound.args, **event.bound.kwargs) if isinstance(event, Call) else None
    return current.parent.switch(event)


_PER_NET = ("controlnet_cond", "controlnet_mode", "control_type", "control_type_idx", "conditioning_scale")
"""Arguments with one entry for each ControlNet, or for each kind of a union."""


class _Proxy:
    """Stands for a module: has its class and its attributes."""

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


class GatedControl(GatedModule):
    """A ControlNet whose calls park the pipeline.

    It takes and returns lists with an entry for each net or block; rows are inside. As tuples they cannot be mistaken
    for lists of rows.
    """

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.__dict__["_called"] = lambda *args, **kwargs: _without_lists(module(*args, **kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the answer to this call."""
        nets = {name: _without_lists(kwargs[name]) for name in _PER_NET if isinstance(kwargs.get(name), list)}
        kwargs = {**kwargs, **nets}
        return park(Call.of(self._called, self._signature, args, kwargs))


def _without_lists(value: Any) -> Any:
    return tuple(_without_lists(each) for each in value) if isinstance(value, list | tuple) else value


class GatedDecoder(_Proxy):
    """An autoencoder whose `decode` parks the pipeline."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        decode = module.decode
        self.__dict__["_decode"] = decode
        self.__dict__["_signature"] = inspect.signature(decode)

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the answer to this call, with latents in the weights' type."""
        if type(self._module).__name__ not in _DRAWING:
            kwargs.pop("generator", None)  # unused by decoders, and it would prevent merging
        args = tuple(each.to(self.dtype) if isinstance(each, torch.Tensor) else each for each in args)
        return park(Call.of(self._decode, self._signature, args, kwargs))

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own result.

        Its distribution without a random generator is its mode. Some pipelines draw from the process's generator, which
        would make images depend on other requests.
        """
        encoded = self._module.encode(*args, **kwargs)
        drawn = getattr(encoded, "latent_dist", None)
        if drawn is not None:
            sample = drawn.sample
            drawn.sample = lambda generator=None: drawn.mode() if generator is None else sample(generator)
        return encoded


class RememberedEncoder(_Proxy):
    """A text encoder that makes equal calls once, while they are cached."""

    def __init__(self, module: Any, context: Callable[[], Hashable]) -> None:
        """`context` is what the results depend on besides the arguments."""
        super().__init__(module)
        self.__dict__.update(_known=Remembered(), _context=context)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the call; its tensors are shared."""
        return self._known(plain_key((args, kwargs), self._context()), lambda: self._module(*args, **kwargs))


def plain_key(value: Any, context: Hashable = None) -> Hashable | None:
    """A key for arguments of texts, numbers and small integer tensors; else None.

    `context` becomes part of it.
    """
    try:
        return _frozen(value), context
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
    raise TypeError(f"a {type(value).__name__} cannot be part of a key")
