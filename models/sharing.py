"""Rows of a model call shared out among the cores of a host: each part has a worker thread, and threads, of its own.

Two threads at one call meet at a barrier after every operation, hundreds of times; parts of a call meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch


class Sharing:
    """Worker threads for a host's cores; with one core a call is made as it is, on the thread that asks."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="share") if cores > 1 else None

    def __call__(self, work: Callable[..., Any], *inputs: Any, fewest: int = 1) -> Any:
        """The tensor (B, ...) that `work` makes of tensors (B, ...), row by row, in order.

        All parts have equally many rows, the last one filled up with its last row: the bits of a row depend on B,
        not on its place, as long as those of `work` do. No part has less than `fewest` rows. What `work` raises is
        raised here, once every part has ended.
        """
        count = len(inputs[0])
        parts = min(self._cores, count // fewest)
        if self._pool is None or parts < 2:
            return work(*inputs)
        rows = -(-count // parts)
        shares = [[_part(tensor, start, rows) for tensor in inputs] for start in range(0, count, rows)]
        threads = max(1, self._cores // len(shares))
        futures = [self._pool.submit(_work, work, share, threads) for share in shares]
        wait(futures)
        return torch.cat([future.result() for future in futures])[:count]


def _work(work: Callable[..., Any], share: Sequence[Any], threads: int) -> Any:
    """One part, with as many threads; torch gives a new thread its process-wide number when it is first asked."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with torch.inference_mode():
        return work(*share)


def _part(tensor: Any, start: int, rows: int) -> Any:
    part = tensor[start : start + rows]
    missing = rows - len(part)
    return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
