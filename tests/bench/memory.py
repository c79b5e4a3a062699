"""Whether memory grows with N: peak resident size of processes that make many and few candidates."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.kit import Figure

WORK = """
import resource, sys, time
from models import registry
from app.domain import GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
models = registry.load("pictogram", "pictogram")
core = EngineCore(models, EngineConfig(buckets=(16,)))
info = models.generator.info
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
core.submit(GenerationSpec("a", "x", "", 16, 1, info.width, info.height, 2, 4.0, info.sampler, 7), 0.0)
while not core.idle: core.tick()
before = peak()
core.submit(GenerationSpec("b", "x", "", int(sys.argv[1]), 1, info.width, info.height, 2, 4.0, info.sampler, 7), 0.0)
while not core.idle: core.tick()
print(before, peak())
"""


def peak_mib(n_candidates: int) -> float:
    """MiB at the most, of a process that made that many candidates in batches of 16."""
    ran = subprocess.run([sys.executable, "-c", WORK, str(n_candidates)], capture_output=True, text=True, check=True)
    return float(ran.stdout.split()[1])


def growth() -> Figure:
    """Peak memory of 256 candidates against that of 32, in batches of the same size."""
    few, many = peak_mib(32), peak_mib(256)
    detail = {"mib": [round(many), round(few)]}
    return Figure("peak memory of 256 candidates", many / few, "32 candidates", at_most=1.3, detail=detail)
