"""`python -m tests.bench.steering`: the embedded model against the scale of steering, beyond the limit of requests.

Each prompt is sampled at every scale with the same seeds, so that figures are paired differences to unsteered images.
The outside judge neither steers nor ranks. One line a prompt goes to `steering.jsonl` in `--out`; a run takes the
prompts that it lacks, within `--take` and `--minutes`, and states the figures of all in `steering.json`. `--sheet`
keeps images of some prompts for the eye in `steering.png`: a row a scale.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.sweeps.steering import sweep
from app.engine.trajectories import default_spec
from models.bootstrap import interval
from models.protocols import GeneratorInfo
from models.training.evaluation import checks
from tests.bench.ensemble_figures import RESAMPLES
from tests.bench.fields import Bench, Deadline, add_arguments, read_rows
from tests.bench.gain import PROMPTS
from tests.bench.kit import Figure, machine, store, table

SCALES = (0.02, 0.05, 0.1, 0.4)
"""The last one is above the limit of requests: there the score rises and the judge's value falls."""

CANDIDATES = 8
SEED = 90_000
ALL_PROMPTS = 64
_BACKGROUND = re.compile(r" on an? (\w+) background$")

Row = dict[str, Any]


def measured(
    bench: Bench, first: int, prompts: Sequence[str], candidates: int, sheet: list[NDArray[np.uint8]]
) -> Iterator[Row]:
    """Prompts at every scale: means over their candidates by statistic, and seconds a candidate.

    They are sampled together; `first` is the place of the first one. `sheet` gets the images of each.
    """
    shown: dict[str, list[NDArray[np.uint8]]] = {}
    further: dict[str, dict[str, dict[str, float]]] = {}

    def seen(prompt: str, scale: float, images: NDArray[np.uint8]) -> None:
        further.setdefault(prompt, {})[f"{scale:g}"] = _looks(bench, prompt, images)
        shown.setdefault(prompt, []).append(np.concatenate(list(images), axis=1))

    points = sweep(
        bench.core,
        bench.models.generator.info,
        prompts,
        SCALES,
        n_candidates=candidates,
        seed=SEED + first * candidates,
        referee=bench.judge,
        together=max(1, bench.together // candidates),
        seen=seen,
    )
    for place, prompt in enumerate(prompts):
        sheet.append(np.concatenate(shown[prompt]))
        values = {f"{p.scale:g}": {name: float(each[place]) for name, each in p.values.items()} for p in points}
        yield {
            "place": first + place,
            "candidates": candidates,
            **_key(bench.models.generator.info, prompt),
            "values": {scale: values[scale] | further[prompt][scale] for scale in values},
            "seconds": {f"{p.scale:g}": p.seconds for p in points},
        }


def _looks(bench: Bench, prompt: str, images: NDArray[np.uint8]) -> dict[str, float]:
    """Whether the judge's top five hold the thing, how alike the candidates are, and the stated background if any."""
    vectors = bench.models.scorer.embed_images(images).astype(np.float64)
    alike = ((vectors @ vectors.T).sum() - np.square(vectors).sum()) / (len(images) * (len(images) - 1))
    found = {"top5": float(bench.judge.top(prompt, images).mean()), "alike": float(alike)}
    stated = _BACKGROUND.search(prompt)
    if stated is not None:
        found["background"] = float(np.mean([checks.background(image) == stated[1] for image in images]))
    return found


def summary(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By scale: the base's means, or mean differences to it with standard errors and the judge's interval; cost.

    The cost is the median over prompts of the seconds divided by those of the base: a pause in a run changes few.
    """
    found: dict[str, dict[str, Any]] = {}
    measured_by = Counter(name for row in rows for name in row["values"]["0"])
    names = [name for name, prompts in measured_by.items() if prompts > 1]  # an error needs two
    for scale in rows[0]["values"]:
        apart = {}
        for name in names:
            pairs = [(r["values"][scale][name], r["values"]["0"][name]) for r in rows if name in r["values"]["0"]]
            apart[name] = np.array([value - (0 if scale == "0" else base) for value, base in pairs])
        found[scale] = {
            "mean": {name: float(each.mean()) for name, each in apart.items()},
            "error": {name: _error(each) for name, each in apart.items()},
            "judge_interval": interval(apart["referee"], RESAMPLES),
            "cost": float(np.median([row["seconds"][scale] / row["seconds"]["0"] for row in rows])),
        }
    return found


def figures(rows: Sequence[Row]) -> list[Figure]:
    """What steering must show: the judge above the base at .05, and .4 below .1; the cost ratios."""
    found = summary(rows)
    made = []
    for scale in map("{:g}".format, SCALES):
        low, high = found[scale]["judge_interval"]
        detail = {
            "prompts": len(rows),
            "candidates": rows[0]["candidates"],
            "interval": [round(low, 4), round(high, 4)],
        }
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
    detail = {"interval": interval(fall, RESAMPLES)}
    made.append(Figure("steering 0.4: the judge", float(fall.mean()), "steering 0.1", at_most=0.0, detail=detail))
    return made


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def _error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def stored_rows(path: Path, info: GeneratorInfo, candidates: int, texts: Sequence[str]) -> list[Row]:
    """One row of each of these prompts that is in the file, by place, with so many candidates.

    They are of the generator's weights and of the wordings that it is sampled from now. A row without wordings was
    measured before prompts were spread over styles, from the prompt alone.
    """
    found = dict[int, Row]()
    for row in read_rows(path):
        place = row["place"]
        if place < len(texts) and row["candidates"] == candidates:
            wanted = _key(info, texts[place])
            if {"wordings": [], **row}.items() >= wanted.items():
                found[place] = row
    return [found[place] for place in sorted(found)]


def _key(info: GeneratorInfo, prompt: str) -> Row:
    """What a row is of: rows of other weights, or of a prompt that is spread otherwise, are not compared with it."""
    wordings = default_spec(info, "", prompt, 1, 0).wordings
    return {"prompt": prompt, "weights": info.revision, "wordings": list(wordings)}


def main() -> None:
    """Measure the prompts that are missing; then print and store what there is."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.steering", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--prompts", type=int, default=ALL_PROMPTS, help="prompts of the whole set")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="candidates of a prompt, at least 2")
    parser.add_argument("--sheet", type=int, default=8, help="prompts of this run whose images are kept")
    asked = parser.parse_args()
    deadline = Deadline(asked.minutes)
    bench, path = Bench.load(asked), asked.out / "steering.jsonl"
    asked.out.mkdir(parents=True, exist_ok=True)
    info = bench.models.generator.info
    texts = PROMPTS.read_text().splitlines()[: asked.prompts]
    count = asked.candidates
    done = {row["place"] for row in stored_rows(path, info, count, texts)}
    missing = [place for place in range(len(texts)) if place not in done][: asked.take]
    if missing:  # the first calls of a process are slower, and would be the unsteered ones
        sweep(bench.core, info, ["a boat"], SCALES[:1], n_candidates=count)
    sheet: list[NDArray[np.uint8]] = []
    with path.open("a") as file:
        for first, prompts in runs(missing, max(1, bench.together // count)):
            if deadline.is_over:
                break
            for row in measured(bench, first, texts[first : first + prompts], count, sheet):
                print(json.dumps(row), file=file, flush=True)
            print(f"{first + prompts} of {len(texts)}", flush=True)
    if sheet[: asked.sheet]:
        Image.fromarray(np.concatenate(sheet[: asked.sheet])).save(asked.out / "steering.png")
    rows = stored_rows(path, info, count, texts)
    if len(rows) < 2:  # an error needs two
        print("too few prompts are measured; run it again")
        return
    made = figures(rows)
    print(table(made))
    store(asked.out / "steering.json", made, machine(), info.revision)


def runs(places: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """First place and length of runs of consecutive places, of at most `most`."""
    for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        found = [place for _, place in run]
        for start in range(0, len(found), most):
            yield found[start], len(found[start : start + most])


if __name__ == "__main__":
    main()
