"""Splits the rows of a model call among the cores of a host.

Each part has its own worker thread and torch threads. Two threads in one call meet at a barrier after every operation,
hundreds of times; separate parts meet once. So a part has several threads only if its operations are large enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch

from models.runtime.traced_calls import MAX_MEASURED_CALLS, TracedCall, counted

MIN_FLOPS_PER_THREAD = 4_000_000
"""Floating-point operations per operation and thread that make a thread pay off.

See DECISIONS 62.
"""


class RowParallel:
    """Worker threads for a host's cores.

    With one core a call runs unchanged on the calling thread.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._flops = dict[Any, float]()
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="share") if cores > 1 else None

    def __call__(self, work: Callable[..., Any], *inputs: Any, min_rows: int = 1) -> Any:
        """The tensor (B, ...) that `work` makes of tensors (B, ...), in row order.

        All parts have equally many rows; the last part is padded with its last row. So the bits of a row depend on B
        and not on its place, if this holds for `work`. No part has fewer than `min_rows` rows, unless the call has.

        An error of `work` is raised here after all parts have ended. The first call of a shape with fewer parts than
        cores makes two more calls of one row. Call from one thread at a time.
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
        """Average floating-point operations of an operation for one row.

        With the call's result, if counting made it. For a traced call the untraced one is counted, so that the limit of
        graphs does not affect the result.
        """
        if isinstance(work, TracedCall):
            return work.grain(*inputs)
        call = work, tuple((tensor.shape[1:], tensor.dtype) for tensor in inputs)
        if call not in self._flops:
            if len(self._flops) == MAX_MEASURED_CALLS:
                del self._flops[next(iter(self._flops))]
            row = [tensor[:1] for tensor in inputs]
            with torch.inference_mode():
                work(*row)  # warm up: extra work of the first call is not counted
            self._flops[call], _ = counted(work, row)
        return self._flops[call], None


def _run_part(work: Callable[..., Any], share: Sequence[Any], threads: int) -> Any:
    """Run one part with this number of threads.

    torch sets a new thread to the process-wide number when the thread first asks for it.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        return work(*share)


def _part(tensor: Any, start: int, rows: int) -> Any:
    part = tensor[start : start + rows]
    missing = rows - len(part)
    return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
