"""`python -m tests.bench.tuning`: tune the embedded pack on prompts of composed attributes, and measure by pixels.

The outside judge is the referee and never rewards. `pixels` is the share of images that show every stated attribute, by
the checks of `models.training.evaluation.checks`. Settings differ in who rewards, see `SETTINGS`. Base and result are
measured on prompts and seeds that no training has seen, and that chose nothing. `taste` makes ten votes for a style,
`taste-background` for a background, and measures its share, see `tests.bench.tuning_taste`. Everything is written to
`--out`; the same call resumes, and passes over what is finished. `--keep` stores the reports in `results/tuning.json`
and draws the curves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import registry
from models.load_options import LoadOptions
from models.tuning.rewards import opinion_of
from models.tuning.run import Report, tune
from models.tuning.settings import TuningSettings
from models.tuning.task import Prompts, TuningTask
from tests.bench import tuning_prompts, tuning_results, tuning_taste
from tests.bench.tuning_opinions import both_of, judge_of, pixels_of, printed, share_of

TASTES: dict[str, tuning_taste.Kind] = {"taste": "style", "taste-background": "background"}
"""What ten votes like, by name of the setting."""

_WIDE = TuningSettings(rate=5e-4, prompts=24, candidates=16, timesteps=3, layers="wide", kl=0.0)

SETTINGS: dict[str, tuple[str, TuningSettings]] = {
    "scorer": ("scorer", _WIDE),
    "pixels": ("pixels", _WIDE),
    "both": ("both", _WIDE),
    "attention": ("pixels", replace(_WIDE, layers="attention")),
    "bon": ("both", replace(_WIDE, method="bon")),
}
"""What is tried, by name: the reward and the settings.

The reward is the pack's own scorer, the share of stated attributes by pixels, or both.
"""


def run(name: str, device: str, out: Path, changes: dict[str, Any], held_out: tuple[int, int]) -> Report:
    """Tune with the settings of that name into a folder below `out`.

    `held_out` are the numbers of prompts that select and of those of the verdict.
    """
    models = registry.load_models("pictogram", "pictogram", device, options=LoadOptions(dtype="float32"))
    trained, known = tuning_prompts.read()
    selection, verdict = known[: held_out[0]], known[held_out[0] : sum(held_out)]
    asked = [*selection, *verdict]
    reward, settings = SETTINGS[name]
    scorer, share = opinion_of(models.scorer), share_of([*trained, *asked])
    rewards = {"scorer": scorer, "pixels": share, "both": both_of(scorer, share)}
    task = TuningTask(
        models.generator,
        rewards[reward],
        judge_of(asked, models.generator.info.device),
        Prompts(*(tuple(prompt.text for prompt in part) for part in (trained, selection, verdict))),
        out / name,
        replace(settings, **changes),
        others={"pixels": pixels_of(asked)},
    )
    return tune(task, printed())


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tuning", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"), help="a folder; each setting gets its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=2.0, help="limit of each setting, without loading")
    parser.add_argument("--settings", nargs="+", default=["both"], choices=sorted([*SETTINGS, *TASTES]))
    parser.add_argument("--selection", type=int, default=24, help="prompts that stop and choose")
    parser.add_argument("--verdict", type=int, default=tuning_prompts.HELD_OUT - 24, help="prompts of the verdict")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the true drawings, for taste")
    parser.add_argument("--keep", action="store_true", help="store the reports in results/tuning.json")
    known = {"iterations": 400, "evaluate_every": 10, "rows": 384, "batch": 96, "evaluated": 16, "accumulation": 1}
    for name, value in known.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    optional = {
        "prompts": int,
        "candidates": int,
        "timesteps": int,
        "steps": int,
        "rank": int,
        "rate": float,
    }
    for name, kind in optional.items():
        parser.add_argument(f"--{name}", type=kind, default=None)
    parser.add_argument("--layers", choices=["attention", "wide"], default=None)
    asked = parser.parse_args()
    given = {name: getattr(asked, name) for name in (*known, *optional, "layers")}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    changes["minutes"] = asked.minutes
    if asked.rank is not None:
        changes["alpha"] = 2 * asked.rank
    held_out = asked.selection, asked.verdict
    if min(held_out) < 2 or sum(held_out) > tuning_prompts.HELD_OUT:
        parser.error(f"--selection and --verdict must be at least 2, and at most {tuning_prompts.HELD_OUT} in all")
    for name in asked.settings:
        if name in TASTES:
            report = tuning_taste.run(asked.device, asked.out / name, changes, held_out, asked.runs, TASTES[name])
        else:
            report = run(name, asked.device, asked.out, changes, held_out)
        shown = {key: report[key] for key in ("verdict", "stop", "iterations", "chosen", "differences")}
        print(json.dumps({"settings": name, **shown, "final": report["final"]}, indent=1), flush=True)
        if asked.keep:
            tuning_results.keep(name, report)


if __name__ == "__main__":
    main()
