"""How measurements are made and kept: paired runs, medians of ratios, one JSON that names the machine of each."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Figure:
    """One measured number. `against` says what it is a ratio to; `limit` is what it must reach, with its side."""

    name: str
    value: float
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None
    detail: Mapping[str, Any] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether it is where it should be; None where nothing was asked."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.value >= self.at_least if self.at_least is not None else None


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def paired(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> tuple[float, dict[str, Any]]:
    """Median of the ratios ours / theirs over `runs` pairs in alternating order; a first pair does not count."""
    ours()
    theirs()
    pairs = []
    for run in range(runs):
        if run % 2:
            b = seconds(theirs)
            a = seconds(ours)
        else:
            a = seconds(ours)
            b = seconds(theirs)
        pairs.append((a, b))
    ratios = sorted(a / b for a, b in pairs)
    detail = {
        "runs": runs,
        "ratios": [round(r, 4) for r in ratios],
        "median_s": [round(statistics.median(p[i] for p in pairs), 4) for i in (0, 1)],
    }
    return statistics.median(ratios), detail


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch  # known by then: the parts of the bench load it

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "packages": {name: version(name) for name in PACKAGES},
    }


def store(path: Path, figures: list[Figure], weights: str, curve: list[dict[str, float]] | None = None) -> None:
    """Write the results to `path`; what was not measured this time stays.

    Every row, and the curve, names the weights it is of and, by a key of `machines`, where and when it was measured.
    """
    here = machine()
    origin = {"weights": weights, "machine": f"{here['cpu']}, {here['commit']}, {here['date']}"}
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows = {row["name"]: row for row in kept.get("figures", ())}
    for figure in figures:
        row = asdict(figure) | {"reached": figure.reached} | origin
        rows[figure.name] = {k: v for k, v in row.items() if v is not None}
    drawn = origin | {"points": curve} if curve else kept.get("curve") or {}
    machines = kept.get("machines", {}) | {origin["machine"]: here}
    used = {row.get("machine") for row in (*rows.values(), drawn)}
    told = {k: v for k, v in machines.items() if k in used}, list(rows.values()), drawn
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(zip(("machines", "figures", "curve"), told, strict=True)), indent=1) + "\n")


def table(figures: list[Figure]) -> str:
    """The figures as text."""
    lines = []
    for f in figures:
        limit = f"<= {f.at_most:g}" if f.at_most is not None else f">= {f.at_least:g}" if f.at_least is not None else ""
        mark = {True: "yes", False: "NO", None: ""}[f.reached]
        lines.append(f"{f.name:<58} {f.value:>9.3f}  {limit:<9} {mark:<4} {f.against}")
    return "\n".join(lines)
