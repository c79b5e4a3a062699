"""Whether memory grows with N: peak resident size of processes that make many and few candidates."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence

from tests.bench.kit import Figure

MANY, FEW = 256, 32

WORK = """
import sys
from pathlib import Path
from models import registry
from app.domain import Checkpoint, GenerationSpec
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
models = registry.load_models("pictogram", "pictogram")
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


def growth(runs: int) -> list[Figure]:
    """Peak memory of 256 candidates against that of 32 in batches of the same size, whole and above the idle process.

    What is idle has loaded the model and made 16 candidates. Latents and embeddings are taken off what lies above it;
    of the pictures, which are not, both return one.
    """
    pairs = [(resident_mib(MANY), resident_mib(FEW)) for _ in range(runs)]
    ratios = sorted(many / few for (_, many), (_, few) in pairs)
    detail = {"runs": runs, "ratios": [round(ratio, 4) for ratio in ratios]}
    return [
        Figure("peak memory of 256 candidates", statistics.median(ratios), "32 candidates", at_most=1.3, detail=detail),
        *(_above_idle(count, [pair[side] for pair in pairs]) for side, count in enumerate((MANY, FEW))),
    ]


def _above_idle(count: int, seen: Sequence[tuple[float, float]]) -> Figure:
    """What so many candidates needed at the most, without what each of them must keep."""
    own = count * OWN_KIB / 1024
    above = sorted(most - idle - own for idle, most in seen)
    detail = {
        "runs": len(seen),
        "mib": [round(each, 1) for each in above],
        "idle_mib": round(statistics.median(idle for idle, _ in seen), 1),
        "latents_and_embeddings_mib": round(own, 2),
    }
    name = f"memory above idle of {count} candidates, MiB"
    return Figure(name, statistics.median(above), "latents and embeddings aside", detail=detail)
