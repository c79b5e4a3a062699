"""Whether memory grows with N: peak resident size of processes that make many and few candidates."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.kit import Figure

WORK = """
import sys
from pathlib import Path
from models import registry
from app.domain import Checkpoint, GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
models = registry.load("pictogram", "pictogram")
core, info = EngineCore(models, EngineConfig(buckets=(16,))), models.generator.info
shape, previewed = (info.width, info.height), (Checkpoint(1),)
def make(name, count):
    core.submit(GenerationSpec(name, "x", "", count, 1, *shape, 2, 4.0, info.sampler, 7, checkpoints=previewed), 0.0)
    while not core.idle: core.tick()
def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024
make("first", 16)
before = mib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
make("second", int(sys.argv[1]))
print(before, mib("VmHWM"))
"""
"""Prints MiB before and at the most while so many candidates are made: what loading took at its height is forgotten."""

OWN_KIB = (16 * 8 * 8 * 4 + 256 * 4) / 1024
"""What a candidate of the pack must keep: its latent and its embedding in float32."""


def resident_mib(n_candidates: int) -> tuple[float, float]:
    """Before, and at the most, in a process that makes that many candidates, previewed, in batches of 16. Linux."""
    ran = subprocess.run([sys.executable, "-c", WORK, str(n_candidates)], capture_output=True, text=True, check=True)
    before, most = map(float, ran.stdout.split())
    return before, most


def growth() -> tuple[Figure, Figure]:
    """Peak memory of 256 candidates against that of 32, in batches of the same size; what each further one added."""
    (few_before, few), (many_before, many) = resident_mib(32), resident_mib(256)
    detail = {
        "mib": [round(many), round(few)],
        "above_before_mib": [round(many - many_before), round(few - few_before)],
    }
    added = 1024 * (many - many_before - few + few_before) / (256 - 32)
    return (
        Figure("peak memory of 256 candidates", many / few, "32 candidates", at_most=1.3, detail=detail),
        Figure("memory that a further candidate adds, KiB", added, f"latent and embedding: {OWN_KIB:g} KiB"),
    )
