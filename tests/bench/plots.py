"""Pictures of the stored figures, for the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

INK, ACCENT, QUIET = "#1c1b1a", "#d4470f", "#a8a49c"


def draw(results: Path) -> list[Path]:
    """One PNG for every plot that the results have figures for, beside them."""
    stored = json.loads(results.read_text())
    figures = {f["name"]: f for f in stored["figures"]}
    made = []
    if stored.get("curve"):
        made.append(_save(results, "gain", _gain, stored["curve"]["points"]))
    if any("clients at once" in name for name in figures):
        made.append(_save(results, "throughput", _throughput, figures))
    waited: dict[str, float] = next((f["detail"] for n, f in figures.items() if n.startswith("1 candidate beside")), {})
    if "large_s" in waited:
        made.append(_save(results, "waiting", _waiting, waited))
    return made


def _save(results: Path, name: str, paint: Any, data: Any) -> Path:
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    axes.spines[["top", "right"]].set_visible(False)
    paint(axes, data)
    figure.tight_layout()
    path = results.with_name(f"{results.stem}-{name}.png")
    figure.savefig(path)
    plt.close(figure)
    return path


def _gain(axes: Axes, curve: list[dict[str, float]]) -> None:
    """Gain over a random pick against device seconds, cut and uncut."""
    uncut = [(p["unpruned"], p["gain"], p["n"]) for p in curve]
    cut = [(p["work"], p["gain"] * p["kept"], p["n"]) for p in curve]
    for points, colour, label in (
        (uncut, QUIET, "every candidate finished"),
        (cut, ACCENT, "losers dropped on the way"),
    ):
        axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, label=label)
        for x, y, n in points:
            axes.annotate(f"{n:.0f}", (x, y), textcoords="offset points", xytext=(4, -10), fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("device seconds (log)")
    axes.set_ylabel("gain in score over a random pick")
    axes.legend(frameon=False)


def _throughput(axes: Axes, figures: dict[str, Any]) -> None:
    """Throughput against the number of one-candidate clients."""
    points = [(int(n.split()[0]), f["value"]) for n, f in figures.items() if "clients at once" in n]
    axes.plot([1, *(p[0] for p in points)], [1, *(p[1] for p in points)], "o-", color=ACCENT)
    axes.axhline(1, color=QUIET, linewidth=1)
    axes.set_xlabel("one-candidate clients at once")
    axes.set_ylabel("images a second, against one at a time")


def _waiting(axes: Axes, waited: dict[str, float]) -> None:
    """Seconds to the result of one candidate: alone, beside 64 others, and where it had to wait for them."""
    bars = {
        "alone": waited["alone_s"],
        "while 64 run": waited["beside_s"],
        "after them, one\nrequest at a time": waited["large_s"] + waited["alone_s"],
    }
    drawn = axes.barh(list(bars), list(bars.values()), color=[QUIET, ACCENT, QUIET], height=0.6)
    axes.bar_label(drawn, fmt="%.2f", padding=4, fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlabel("seconds to the result of one candidate")


def draw_over_optimisation(results: Path, found: dict[str, Any]) -> Path:
    """The judge's value of the winner against the number of candidates, by way of ranking; beside the results."""
    return _save(results, "over-optimisation", _over_optimisation, found)


def _over_optimisation(axes: Axes, found: dict[str, Any]) -> None:
    for way, curve in found["ways"].items():
        colour = {"alone": QUIET, "ensemble, uncertainty 0.5": ACCENT}.get(way)
        axes.errorbar(found["candidates"], curve["value"], curve["error"], fmt="o-", color=colour, label=way, capsize=2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("candidates (log)")
    axes.set_ylabel("outside judge, above a random pick")
    axes.legend(frameon=False, fontsize=8)
