"""Calls of a model on the host, recorded once and then run without Python.

Python starts some seven hundred operations in a denoiser call, and only one thread at a time may run Python: threads
that share a call wait for each other. A recording starts the same operations with the same bits.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.errors import is_host_out_of_memory
from models.runtime.deferred_imports import deferred_imports

log = logging.getLogger(__name__)

HEAVY = 50_000_000
"""Floating-point operations that an average operation of a call has where Python starts it quickly enough: a core needs
a millisecond or more for it, Python some 30 microseconds. Recording would cost as much as five such calls."""

MAX_MEASURED_CALLS = 256
"""Calls, each with rows of one shape, whose operations are remembered."""

MAX_GRAPHS = 32
"""Recordings of one call, each of one shape of rows. Torch never frees one, so further shapes go through Python."""


class TracedCall:
    """A call on tensors (B, ...) that goes through no branch but by the shapes of its rows; any thread may make it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.untraced = call
        self._graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._grains: dict[tuple[Any, ...], float] = {}
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """What the call gives; the first with rows of a shape also takes the time of six more calls of one row.

        A call of `HEAVY` operations is not recorded.
        """
        shape = _shape(inputs)
        with self._lock:
            graph = self._graphs.get(shape)
            if graph is None and len(self._graphs) < MAX_GRAPHS:
                grain, made = self._counted(shape, inputs)
                if grain < HEAVY:
                    graph = self._graphs[shape] = _trace(self.untraced, inputs)
                elif made is not None:
                    return made
        return (graph or self.untraced)(*inputs)

    def grain(self, *inputs: Any) -> tuple[float, Any | None]:
        """Floating-point operations of an average operation for one row, and perhaps what the call gives.

        That is the case where a call of one row that is not recorded had to be made to count them.
        """
        shape = _shape(inputs)
        with self._lock:
            grain, made = self._counted(shape, inputs)
        return grain, made if grain >= HEAVY else None

    def _counted(self, shape: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[float, Any | None]:
        made = None
        if shape not in self._grains:
            if len(self._grains) == MAX_MEASURED_CALLS:
                del self._grains[next(iter(self._grains))]
            self._grains[shape], made = counted(self.untraced, [each[:1] for each in inputs])
        return self._grains[shape], made if len(inputs[0]) == 1 else None


class _OperationCounter(TorchDispatchMode):
    """Counts the operations of this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[..., Any], row: Sequence[Any]) -> tuple[float, Any]:
    """Floating-point operations of an average operation of a call, and what the call gives.

    Torch knows no number for attention on the host, which counts as none.
    """
    with (
        deferred_imports(),
        torch.inference_mode(),
        FlopCounterMode(display=False) as flops,
        _OperationCounter() as operations,
    ):
        made = call(*row)
    return float(flops.get_total_flops() / max(operations.count, 1)), made


def _shape(inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple((each.shape[1:], each.dtype) for each in inputs)


def _trace(call: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """The call as a graph, or as it is where that gives something else for these rows, or for random ones.

    So is a branch by values found. Torch calls its tracer deprecated and has nothing else that needs no compiler;
    without one, Python it is.
    """
    tracer = getattr(torch.jit, "trace", None)
    if tracer is None:
        log.warning("this torch records no calls: they go through Python and are slower")
        return call
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        example = tuple(torch.ones(1, *each.shape[1:], dtype=each.dtype) for each in inputs)
        draw = torch.Generator().manual_seed(0)
        random_inputs = [torch.randn(each.shape, generator=draw).to(each.dtype) for each in inputs]
        try:
            traced: Callable[..., Any] = tracer(lambda *each: call(*each), example, check_trace=False)
            given_inputs = [each.clone() for each in inputs]
            same = all(
                _all_close(traced(*trial), call(*trial))
                for trial in map(_at_least_two_rows, (random_inputs, given_inputs))
            )
        except RuntimeError as error:
            if is_host_out_of_memory(error):
                raise
            log.warning("a model call cannot be recorded: it goes through Python and is slower", exc_info=error)
            return call
    if same:
        return traced
    log.warning("a recorded model call gives something else than the call: it goes through Python and is slower")
    return call


def _at_least_two_rows(trial: list[Any]) -> list[Any]:
    """The rows of a trial, a lone one twice: a recording of one row may have taken their number for granted."""
    return trial if len(trial[0]) > 1 else [torch.cat([each, each]) for each in trial]


def _all_close(one: Any, other: Any) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True))
