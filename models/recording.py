"""Calls of a model on the host, recorded once and then run without Python.

Python starts some seven hundred operations in a denoiser call, and only one thread at a time may run Python: threads
that share a call wait for each other. A recording starts the same operations with the same bits.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

KEPT = 8
"""Recordings of one call, each of one shape of rows; the one that was not used for longest makes room."""


class Recorded:
    """A call on tensors (B, ...) that goes through no branch but by the shapes of its rows; any thread may make it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._graphs: OrderedDict[tuple[Any, ...], Callable[..., Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """What the call gives; the first with rows of a shape also takes the time of calls of one, two and two rows."""
        shape = tuple((each.shape[1:], each.dtype) for each in inputs)
        with self._lock:
            graph = self._graphs.get(shape) or _record(self._call, inputs)
            self._graphs[shape] = graph
            self._graphs.move_to_end(shape)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        return graph(*inputs)


def _record(call: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[..., Any]:
    """The call as a graph, or as it is where that gives something else: a branch by values cannot be recorded.

    Torch calls its tracer deprecated and has nothing else that needs no compiler; without one, Python it is.
    """
    tracer = getattr(torch.jit, "trace", None)
    if tracer is None:
        log.warning("this torch records no calls: they go through Python and are slower")
        return call
    shapes = [(each.shape[1:], each.dtype) for each in inputs]
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        example = tuple(torch.ones(1, *shape, dtype=dtype) for shape, dtype in shapes)
        recorded: Callable[..., Any] = tracer(lambda *each: call(*each), example, check_trace=False)
        draw = torch.Generator().manual_seed(0)
        trial = [torch.randn(2, *shape, generator=draw).to(dtype) for shape, dtype in shapes]
        if torch.allclose(recorded(*trial), call(*trial), rtol=1e-4, atol=1e-4, equal_nan=True):
            return recorded
    log.warning("a model call cannot be recorded: it goes through Python and is slower")
    return call
