"""Model calls on the host, traced once and then run without Python.

Python starts some 700 operations in a denoiser call. Only one thread at a time may run Python, so threads that share a
call wait for each other. A trace starts the same operations with the same bits.
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
"""Average floating-point operations of an operation from which tracing is useless.

A core needs a millisecond or more for such an operation, Python some 30 microseconds to start it. Tracing costs as much
as five such calls.
"""

MAX_MEASURED_CALLS = 256
"""Calls, each with one row shape, whose operation counts are remembered."""

MAX_GRAPHS = 32
"""Traces per call, one for each row shape.

Torch never frees one, so further shapes run through Python.
"""


class TracedCall:
    """A call on tensors (B, ...), traced for each row shape. Thread-safe.

    The call may branch on row shapes only.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.untraced = call
        self._graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._grains: dict[tuple[Any, ...], float] = {}
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """The result of the call.

        The first call with a row shape also takes the time of six more calls of one row. A call of `HEAVY` operations
        is not traced.
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
        """Average floating-point operations of an operation for one row.

        With the call's result if counting made it, which happens for one row and an untraced call.
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
    """Average floating-point operations of an operation, and the call's result.

    Torch has no count for attention on the host; it counts as zero.
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
    """The call as a graph, or the call itself if the graph gives other results.

    It is compared for these rows and for random ones, which finds branches on values. Torch marks its tracer as
    deprecated, but has no other one that needs no compiler. Without the tracer the call runs in Python.
    """
    tracer = getattr(torch.jit, "trace", None)
    if tracer is None:
        log.warning("this torch cannot trace calls: they run in Python and are slower")
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
            log.warning("a model call cannot be traced: it runs in Python and is slower", exc_info=error)
            return call
    if same:
        return traced
    log.warning("a traced model call gives other results: it runs in Python and is slower")
    return call


def _at_least_two_rows(trial: list[Any]) -> list[Any]:
    """The rows of a trial; a single row twice.

    A trace of one row may have fixed the number of rows.
    """
    return trial if len(trial[0]) > 1 else [torch.cat([each, each]) for each in trial]


def _all_close(one: Any, other: Any) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True))
