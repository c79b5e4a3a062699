"""Rows of a model call shared out among the cores of a host: each part has a worker thread, and threads, of its own.

Two threads at one call meet at a barrier after every operation, hundreds of times; parts of a call meet once. So a part
has several threads only where its operations are large enough to be worth the meeting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

GRAIN = 4_000_000
"""Floating-point operations that one operation of a call must have for each thread to be worth one (DECISIONS 62)."""

KNOWN = 256
"""Calls, each with rows of one shape, whose operations are remembered."""


class Sharing:
    """Worker threads for a host's cores; with one core a call is made as it is, on the thread that asks."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._grains = dict[Any, float]()
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="share") if cores > 1 else None

    def __call__(self, work: Callable[..., Any], *inputs: Any, fewest: int = 1) -> Any:
        """The tensor (B, ...) that `work` makes of tensors (B, ...), row by row, in order.

        All parts have equally many rows, the last one filled up with its last row: the bits of a row depend on B,
        not on its place, as long as those of `work` do. No part has less than `fewest` rows. What `work` raises is
        raised here, once every part has ended. The first of a shape with fewer parts than cores makes two calls
        more, of one row. To be called from one thread at a time.
        """
        count = len(inputs[0])
        if self._pool is None or not count:
            return work(*inputs)
        rows = -(-count // max(1, min(self._cores, count // fewest)))
        shares = [[_part(tensor, start, rows) for tensor in inputs] for start in range(0, count, rows)]
        threads = self._cores // len(shares)
        if threads > 1:
            threads = max(1, min(threads, int(rows * self._grain(work, inputs) / GRAIN)))
        if threads == self._cores:
            return work(*inputs)
        futures = [self._pool.submit(_work, work, share, threads) for share in shares]
        wait(futures)
        return torch.cat([future.result() for future in futures])[:count]

    def _grain(self, work: Callable[..., Any], inputs: Sequence[Any]) -> float:
        """Floating-point operations of an average operation of this call for one row."""
        call = work, tuple((tensor.shape[1:], tensor.dtype) for tensor in inputs)
        if call not in self._grains:
            if len(self._grains) == KNOWN:
                del self._grains[next(iter(self._grains))]
            self._grains[call] = _counted(work, [tensor[:1] for tensor in inputs])
        return self._grains[call]


def _work(work: Callable[..., Any], share: Sequence[Any], threads: int) -> Any:
    """One part, with as many threads; torch gives a new thread its process-wide number when it is first asked."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        return work(*share)


class _Operations(TorchDispatchMode):
    """Counts the operations of this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _counted(work: Callable[..., Any], row: Sequence[Any]) -> float:
    """Floating-point operations of an average operation, once what the first call does besides is done.

    Of a recorded call the one behind it is counted: whether there is room for another recording must not decide. Torch
    knows no number for attention on the host, which counts as none.
    """
    with torch.inference_mode():
        work(*row)
        with FlopCounterMode(display=False) as flops, _Operations() as operations:
            getattr(work, "plain", work)(*row)
    return float(flops.get_total_flops() / max(operations.count, 1))


def _part(tensor: Any, start: int, rows: int) -> Any:
    part = tensor[start : start + rows]
    missing = rows - len(part)
    return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
