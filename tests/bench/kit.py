"""How measurements are made and kept: paired runs, medians of ratios, one JSON that names the machine of each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "open_clip_torch", "transformers", "numpy", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Figure:
    """One measured number. `against` says what it is a ratio to; `at_most` or `at_least` is what it must reach.

    `weights` names what it is of where that is not the weights that the bench has loaded. Without a number `value` is
    None, and `reason` in `detail` says why.
    """

    name: str
    value: float | None
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None
    detail: Mapping[str, Any] | None = None
    weights: str | None = None

    @property
    def runs(self) -> int:
        """How many runs it is the median of; what is counted over prompts is counted once."""
        return int((self.detail or {}).get("runs", 1))

    @property
    def reached(self) -> bool | None:
        """Whether it is where it should be; None where nothing was asked, or there is no number."""
        if self.value is None:
            return None
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
    commit = ""
    if shutil.which("git"):
        git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    """The installed version; None where it is not installed, since not every bench needs every package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def store(
    path: Path,
    figures: Sequence[Figure],
    here: Mapping[str, Any],
    weights: str,
    curve: Sequence[Mapping[str, float]] | None = None,
) -> None:
    """Write the results to `path`, as measured on `here`, a `machine()`; what was not measured this time stays.

    Every row, and the curve, has `runs`, the `weights` it is of, and a key of `machines`, which tell where, when and
    with which commit and libraries it was measured. What an older row does not tell of these is null.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    machines = kept.get("machines", {})
    key = _key(here, machines)
    machines[key] = dict(here)
    rows = {row["name"]: _whole(row) for row in kept.get("figures", ())}
    for figure in figures:
        fields = asdict(figure) | {"reached": figure.reached}
        row = {k: v for k, v in fields.items() if v is not None or k == "value"}
        rows[figure.name] = row | {"runs": figure.runs, "weights": figure.weights or weights, "machine": key}
    drawn = kept.get("curve") and _whole(kept["curve"])
    if curve:
        drawn = {"runs": 1, "weights": weights, "machine": key, "points": curve}
    used = {each["machine"] for each in (*rows.values(), drawn) if each}
    told = {"machines": {k: v for k, v in machines.items() if k in used}, "figures": list(rows.values())}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told | {"curve": drawn or {}}, indent=1) + "\n")


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it was stored, with null for what it does not tell of its origin."""
    runs = (row.get("detail") or {}).get("runs")
    return {**row, "runs": row.get("runs", runs), "weights": row.get("weights"), "machine": row.get("machine")}


def _key(here: Mapping[str, Any], machines: Mapping[str, Any]) -> str:
    """What a machine is called; numbered where another one with other libraries, say, has the name already."""
    name = f"{here['cpu']}, {here['commit']}, {here['date']}"
    names = chain([name], (f"{name}, {number}" for number in count(2)))
    return next(each for each in names if machines.get(each, here) == here)


def table(figures: list[Figure]) -> str:
    """The figures as text."""
    lines = []
    for f in figures:
        limit = f"<= {f.at_most:g}" if f.at_most is not None else f">= {f.at_least:g}" if f.at_least is not None else ""
        mark = {True: "yes", False: "NO", None: ""}[f.reached]
        value = "-" if f.value is None else f"{f.value:.3f}"
        lines.append(f"{f.name:<58} {value:>9}  {limit:<9} {mark:<4} {f.against}")
    return "\n".join(lines)
