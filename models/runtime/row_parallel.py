"""Rows of a model call shared out among the cores of a host: each part has a worker thread, and threads, of its own.

Two threads at one call meet at a barrier after every operation, hundreds of times; parts of a call meet once. So a part
has several threads only where its operations are large enough to be worth the meeting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch

from models.runtime.traced_calls import MAX_MEASURED_CALLS, TracedCall, counted

MIN_FLOPS_PER_THREAD = 4_000_000
"""Floating-point operations that one operation of a call must have for each thread to be worth one (DECISIONS 62)."""


class RowParallel:
    """Worker threads for a host's cores; with one core a call is made as it is, on the thread that asks."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._flops = dict[Any, float]()
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="share") if cores > 1 else None

    def __call__(self, work: Callable[..., Any], *inputs: Any, min_rows: int = 1) -> Any:
        """The tensor (B, ...) that `work` makes of tensors (B, ...), row by row, in order.

        All parts have equally many rows, the last one filled up with its last row: the bits of a row depend on B,
        not on its place, as long as those of `work` do. No part has less than `fewest` rows. What `work` raises is
        raised here, once every part has ended. The first of a shape with fewer parts than cores makes two calls
        more, of one row. To be called from one thread at a time.
        """
        count = len(inputs[0])
        if self._pool is None or not count:
            return work(*inputs)
        rows = -(-count // max(1, min(self._cores, count // min_rows)))
        shares = [[_part(tensor, start, rows) for tensor in inputs] for start in range(0, count, rows)]
        threads = self._cores // len(shares)
        made = None
        if threads > 1:
            grain, made = self._flops_per_operation(work, inputs)
            threads = max(1, min(threads, int(rows * grain / MIN_FLOPS_PER_THREAD)))
        if threads == self._cores:
            return work(*inputs) if made is None else made
        futures = [self._pool.submit(_run_part, work, share, threads) for share in shares]
        wait(futures)
        return torch.cat([future.result() for future in futures])[:count]

    def _flops_per_operation(self, work: Callable[..., Any], inputs: Sequence[Any]) -> tuple[float, Any | None]:
        """Floating-point operations of an average operation of this call for one row, and perhaps what it gives.

        Of a recorded call the one behind it is counted: whether there is room for another recording must not decide.
        """
        if isinstance(work, TracedCall):
            return work.grain(*inputs)
        call = work, tuple((tensor.shape[1:], tensor.dtype) for tensor in inputs)
        if call not in self._flops:
            if len(self._flops) == MAX_MEASURED_CALLS:
                del self._flops[next(iter(self._flops))]
            row = [tensor[:1] for tensor in inputs]
            with torch.inference_mode():
                work(*row)  # what the first call does besides is not counted
            self._flops[call], _ = counted(work, row)
        return self._flops[call], None


def _run_part(work: Callable[..., Any], share: Sequence[Any], threads: int) -> Any:
    """One part, with as many threads; torch gives a new thread its process-wide number when it is first asked."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        return work(*share)


def _part(tensor: Any, start: int, rows: int) -> Any:
    part = tensor[start : start + rows]
    missing = rows - len(part)
    return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
