"""Start-up of the service against a bare import of the libraries it stands on, in processes of their own."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from app.cli.local_server import running_service
from tests.bench.kit import Figure

IMPORTS = "import torch, diffusers, open_clip"

KINDS = ("wall", "processor")


def serve() -> None:
    """From the start of a process until it is ready for requests, and its end."""
    with running_service():
        pass


def bare() -> None:
    """The libraries in a fresh interpreter."""
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def start(runs: int) -> list[Figure]:
    """Wall and processor seconds of the service until it is ready, against those of the import; the service first.

    Processor seconds tell more where other work shares the machine. Those of the service include its end.
    """
    pairs = [(_timed(serve), _timed(bare)) for _ in range(runs)]
    return [_figure(kind, [(ours[place], theirs[place]) for ours, theirs in pairs]) for place, kind in enumerate(KINDS)]


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds of the processes that `work` starts and waits for."""
    wall, before = time.perf_counter(), _processor()
    work()
    return time.perf_counter() - wall, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _figure(kind: str, pairs: list[tuple[float, float]]) -> Figure:
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    medians = [round(statistics.median(pair[side] for pair in pairs), 2) for side in (0, 1)]
    detail = {
        "runs": len(pairs),
        "ratios": [round(each, 3) for each in ratios],
        "median_s": medians,
        "cores": os.cpu_count(),
    }
    return Figure(f"start-up of the service: {kind} time", statistics.median(ratios), IMPORTS, detail=detail)
