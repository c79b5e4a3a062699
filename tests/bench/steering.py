"""`python -m tests.bench.steering`: the embedded model against the scale of steering, beyond the limit of requests.

Each prompt is sampled at every scale with the same seeds, so that figures are paired differences to unsteered images.
The outside judge neither steers nor ranks. One line a prompt goes to `--rows`; a run takes the prompts that it lacks,
at most `--take` of them, so that the work can be cut in pieces. `--sheets` keeps images for the eye: a row a scale.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.sweeps.steering import sweep
from models import registry
from models.protocols import Models
from tests.bench.ensemble_figures import interval
from tests.bench.gain import PROMPTS, Judge
from tests.bench.kit import RESULTS, Figure, machine, store, table

SCALES = (0.02, 0.05, 0.1, 0.4)
"""The last one is above the limit of requests: there the score rises and the judge's value falls."""

CANDIDATES = 8
SEED = 90_000
ROWS = Path("runs/steering.jsonl")
FEWEST_PROMPTS = 64
"""With fewer, figures are printed and not stored."""

Row = dict[str, Any]


def measured(models: Models, core: EngineCore, place: int, prompt: str, judge: Judge, sheets: Path | None) -> Row:
    """One prompt at every scale: means over its candidates by statistic, and seconds a candidate."""
    shown: list[NDArray[np.uint8]] = []
    points = sweep(
        core,
        models.generator.info,
        [prompt],
        SCALES,
        n_candidates=CANDIDATES,
        seed=SEED + place * CANDIDATES,
        referee=judge,
        seen=lambda _prompt, _scale, images: shown.append(np.concatenate(list(images), axis=1)),
    )
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(shown)).save(sheets / f"{place:03}.png")
    values = {f"{p.scale:g}": {name: float(each[0]) for name, each in p.values.items()} for p in points}
    return {
        "place": place,
        "prompt": prompt,
        "weights": models.generator.info.revision,
        "values": values,
        "seconds": {f"{p.scale:g}": p.seconds for p in points},
    }


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By scale: the base's means, or mean differences to it with standard errors and the judge's interval; cost."""
    found: dict[str, dict[str, Any]] = {}
    base_seconds = sum(row["seconds"]["0"] for row in rows)
    for scale in rows[0]["values"]:
        names = rows[0]["values"][scale]
        values = {name: np.array([row["values"][scale][name] for row in rows]) for name in names}
        base = {name: np.array([row["values"]["0"][name] for row in rows]) for name in names}
        apart = values if scale == "0" else {name: values[name] - base[name] for name in names}
        found[scale] = {
            "mean": {name: float(each.mean()) for name, each in apart.items()},
            "error": {name: float(each.std(ddof=1) / np.sqrt(len(rows))) for name, each in apart.items()},
            "judge_interval": interval(apart["referee"]),
            "cost": sum(row["seconds"][scale] for row in rows) / base_seconds,
        }
    return found


def figures(rows: Sequence[Row]) -> list[Figure]:
    """What steering must show: the judge above the base at .05, and .4 below .1; the cost ratios."""
    found = summary(rows)
    made = []
    for scale in map("{:g}".format, SCALES):
        low, high = found[scale]["judge_interval"]
        detail = {"prompts": len(rows), "candidates": CANDIDATES, "interval": [round(low, 4), round(high, 4)]}
        detail["base"] = _rounded(found["0"]["mean"])
        detail |= {part: _rounded(found[scale][part]) for part in ("mean", "error")}
        gain = Figure(
            f"steering {scale}: outside judge, log-probability",
            found[scale]["mean"]["referee"],
            "unsteered",
            detail=detail,
        )
        made += [gain, Figure(f"steering {scale}: device seconds", found[scale]["cost"], "unsteered")]
    low = found["0.05"]["judge_interval"][0]
    made.append(Figure("steering 0.05: the judge's 95 % interval begins at", low, "unsteered", at_least=0.0))
    fall = np.array([row["values"]["0.4"]["referee"] - row["values"]["0.1"]["referee"] for row in rows])
    detail = {"interval": interval(fall)}
    made.append(Figure("steering 0.4: the judge", float(fall.mean()), "steering 0.1", at_most=0.0, detail=detail))
    return made


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def stored_rows(path: Path, weights: str) -> list[Row]:
    """The rows of these weights that are in the file, by place."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((row for row in map(json.loads, lines) if row["weights"] == weights), key=lambda row: row["place"])


def main() -> None:
    """Measure the prompts that are missing; then print, and store a whole set."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steering", description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROWS, help="the file of measured prompts")
    parser.add_argument("--prompts", type=int, default=FEWEST_PROMPTS, help="prompts of the whole set")
    parser.add_argument("--take", type=int, default=None, help="prompts of this run; default: all that are missing")
    parser.add_argument("--sheets", type=Path, default=None, help="a folder for images")
    asked = parser.parse_args()
    from tests.bench.judge import judge

    models = registry.load_models("pictogram", "pictogram", "cpu")
    weights = models.generator.info.revision
    core, outside = EngineCore(models, EngineConfig()), judge()
    done = {row["place"] for row in stored_rows(asked.rows, weights)}
    texts = PROMPTS.read_text().splitlines()[: asked.prompts]
    missing = [place for place in range(len(texts)) if place not in done]
    asked.rows.parent.mkdir(parents=True, exist_ok=True)
    if missing:  # the first calls of a process are slower, and would be the unsteered ones
        sweep(core, models.generator.info, ["a boat"], SCALES[:1], n_candidates=CANDIDATES)
    with asked.rows.open("a") as file:
        for place in missing[: asked.take]:
            row = measured(models, core, place, texts[place], outside, asked.sheets)
            print(json.dumps(row), file=file, flush=True)
            print(f"{place + 1} of {len(texts)}", flush=True)
    rows = [row for row in stored_rows(asked.rows, weights) if row["place"] < len(texts)]
    if len(rows) < len(texts):
        print(f"{len(rows)} of {len(texts)} prompts are measured; run it again for the others")
        return
    made = figures(rows)
    print(table(made))
    if len(rows) >= FEWEST_PROMPTS:
        store(RESULTS / "pictogram.json", made, machine(), weights)


if __name__ == "__main__":
    main()
