"""Tables of the documents from stored runs of the benches of ensembles and of steering."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "tests" / "bench" / "results"
NONE = "No run is stored yet.\n"
STEERED = ("score", "referee", "top5", "background", "variation", "clipped", "high_band", "alike")
"""Statistics of the steering table; `referee` is the outside judge."""


def ensembles() -> str:
    """The figures of ways of ranking, of field sizes and of wordings."""
    found = _stored("ensembles.json")
    parts = [
        _PARTS[name][0].format(**part | {"device": _device(part)}) + "\n\n" + _PARTS[name][1](part)
        for name, part in found.items()
    ]
    return "\n".join(parts) or NONE


def verdicts() -> str:
    """One line for each option of a ranking: whether its interval is above 0."""
    found = _stored("ensembles.json")
    lines = list(_verdicts(found))
    if not lines:
        return f"{_OFF} {NONE}"
    return f"{_OFF} Measured on the embedded model, by the outside judge:\n\n" + "".join(
        f"- {each}\n" for each in lines
    )


def steering() -> str:
    """The steering table: the unsteered means, then differences to them with standard errors."""
    found = {figure["name"]: figure for figure in _stored("steering.json").get("figures", ())}
    rows, cost = list[tuple[str, ...]](), "steering {}: device seconds"
    judged = {
        name.split()[1].rstrip(":"): f for name, f in found.items() if name.endswith("outside judge, log-probability")
    }
    for scale, figure in judged.items():
        detail = figure["detail"]
        if not rows:
            rows.append(("0", *(_number(detail["base"][name]) for name in STEERED if name in detail["base"]), "1"))
        cells = (f"{detail['mean'][n]:+.3g} ± {detail['error'][n]:.2g}" for n in STEERED if n in detail["base"])
        rows.append((scale, *cells, _number(found[cost.format(scale)]["value"])))
    if not rows:
        return NONE
    detail = next(iter(judged.values()))["detail"]
    names = ["judge" if name == "referee" else name for name in STEERED if name in detail["base"]]
    head = f"{detail['prompts']} prompts with {detail['candidates']} candidates: base, then differences to it.\n\n"
    return head + _table(("scale", *names, "seconds"), rows)


def _paired(part: Mapping[str, Any]) -> str:
    rows = []
    for way, figures in part["over_the_main_scorer"].items():
        equal, timed = figures["equal_candidates"], figures.get("equal_seconds")
        cells = [way, str(figures["other_winner"]), _interval(equal["judged"]), _interval(equal["pixels"])]
        rows.append((*cells, _interval(timed["judged"]) if timed else "as equal candidates"))
    return _table(("way", "other winners", "judge", "pixels", "judge, equal seconds"), rows)


def _large(part: Mapping[str, Any]) -> str:
    most = part["candidates"][-1]
    rows = [
        (way, str(c["best_at"]), _number(max(c["value"])), _number(c["value"][-1]), _range(c["fall"]))
        for way, c in part["ways"].items()
    ]
    return _table(("way", "best at", "judge there", f"judge at {most}", "fall"), rows)


def _variants(part: Mapping[str, Any]) -> str:
    rows = [
        (arm, _interval(f["winner"]["judged"]), _interval(f["winner"]["pixels"]), _interval(f["random_pick"]))
        for arm, f in part["over_one_wording"].items()
    ]
    return _table(("wordings", "winner, judge", "winner, pixels", "random pick, judge"), rows)


_PARTS = {
    "paired": (
        "Best of {candidates} on {prompts} prompts ({device}), less the main scorer alone, with 95 % intervals. "
        "With members a generation takes {seconds_with_members:.3g} times as long.",
        _paired,
    ),
    "large": (
        "The judge's value of the winner, above a random pick, on {prompts} prompts ({device}); "
        "`fall` is what the largest field lacks to the best size.",
        _large,
    ),
    "variants": (
        "Best of {candidates} over four wordings on {prompts} prompts ({device}), less the prompt alone.",
        _variants,
    ),
}
_OFF = "Ensembles, `contrast`, `cascade` and `variants` are off unless a request or the operator asks for them."


def _verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    for way, figures in found.get("paired", {}).get("over_the_main_scorer", {}).items():
        seconds = "equal_seconds" if "equal_seconds" in figures else "equal_candidates"
        yield _verdict(
            f"{way}, for {seconds.replace('_', ' ')}", figures[seconds]["judged"], found["paired"]["prompts"]
        )
    for arm, figures in found.get("variants", {}).get("over_one_wording", {}).items():
        yield _verdict(f"variants, {arm}", figures["winner"]["judged"], found["variants"]["prompts"])


def _verdict(name: str, figure: Mapping[str, float], prompts: int) -> str:
    said = "helps" if figure["low"] > 0 else "harms" if figure["high"] < 0 else "no gain is shown"
    return f"{name}: {said} ({_interval(figure)}, {prompts} prompts)"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def _range(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return _interval({"mean": figure["mean"], "low": low, "high": high})


def _device(part: Mapping[str, Any]) -> str:
    here = part["machine"]
    return str(here["gpu"] if part["device"].startswith("cuda") else here["cpu"])


def _number(value: float) -> str:
    return f"{value:.3g}"


def _stored(name: str) -> dict[str, Any]:
    path = FOLDER / name
    stored: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return stored


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
