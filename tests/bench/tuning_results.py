"""What the tuning bench stores: a JSON that names the machine of each setting, and one plot of all curves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from tests.bench.kit import RESULTS, machine
from tests.bench.plots import INK, QUIET

FILE = RESULTS / "tuning.json"
MEASURES = ("pixels", "style", "background", "referee")

KEPT = (
    *("verdict", "stop", "iterations", "chosen", "seconds", "differences", "final", "measurements"),
    *("generator", "reward", "referee", "options", "base_untouched"),
)
"""What is stored of a report, besides machine, numbers of prompts and votes."""


def keep(name: str, report: dict[str, Any], file: Path = FILE) -> None:
    """Store a setting's report with its machine, without the texts of prompts, and draw all curves."""
    known = json.loads(file.read_text()) if file.is_file() else {}
    prompts = {part: len(texts) for part, texts in report["prompts"].items()}
    known[name] = {"machine": machine(), **{key: report[key] for key in KEPT}, "prompts": prompts}
    if "votes" in report:
        known[name]["votes"] = report["votes"]
    file.write_text(json.dumps(known, indent=1, allow_nan=False) + "\n")
    draw(known, file.with_name(f"{file.stem}-curves.png"))


def draw(known: dict[str, Any], path: Path) -> None:
    """Each measure that has values by iteration, a line a setting."""
    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for measure, (name, stored) in itertools.product(MEASURES, known.items()):
        rows = [(row["iteration"], row[measure]) for row in stored["measurements"] if row.get(measure) is not None]
        if rows:
            lines.setdefault(measure, {})[name] = rows
    figure, places = plt.subplots(1, len(lines), figsize=(3.2 * len(lines), 3.2), dpi=150, squeeze=False)
    for axes, (measure, drawn) in zip(places[0], lines.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(measure, color=INK, fontsize=10)
        axes.set_xlabel("iteration", color=QUIET)
        for name, rows in drawn.items():
            axes.plot(*zip(*rows, strict=True), "o-", label=name)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
